//! The memory estimate of planned outputs: a table for people, fields for machines.

use std::fmt::Write;

use gemma_convert::{ArtifactMemory, Engine, Memory, PlanOutcome, Verdict};
use report::{Table, grouped};
use serde::Serialize;

/// The memory estimate of an artifact, and whether it fits.
#[derive(Serialize)]
pub(crate) struct MemoryPlan {
    recipe: String,
    #[serde(flatten)]
    memory: Memory,
    /// Only with `--memory`.
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<Verdict>,
}

/// The memory estimates of all artifacts.
pub(crate) fn of(outcome: &PlanOutcome) -> Vec<MemoryPlan> {
    let of_one = |ArtifactMemory { recipe, memory, verdict }: &ArtifactMemory| MemoryPlan {
        recipe: recipe.clone(),
        memory: memory.clone(),
        verdict: verdict.clone(),
    };
    outcome.memory.iter().map(of_one).collect()
}

impl MemoryPlan {
    /// Whether the estimate is of this recipe.
    pub(crate) fn is_of(&self, recipe: &str) -> bool {
        self.recipe == recipe
    }

    /// False if a memory limit was given and exceeded.
    pub(crate) fn fits(&self) -> bool {
        self.verdict.as_ref().is_none_or(|verdict| verdict.fits)
    }

    /// The estimate as text.
    pub(crate) fn describe(&self) -> String {
        let Memory { context, batch, threads, .. } = self.memory;
        let context = grouped(context);
        let mut text = format!(
            "\nmemory with {context} tokens of context, batches of {batch} tokens, {threads} threads; in bytes\n\n"
        );
        text.push_str(&needs(&self.memory).render());
        for class in &self.memory.weights.offloaded {
            let _ = writeln!(
                text,
                "on disk, {}: {} bytes, {} of them read per token",
                class.class,
                grouped(class.bytes),
                grouped(class.bytes_per_token)
            );
        }
        if self.memory.weights.idle > 0 {
            let _ = writeln!(text, "never read for text: {} bytes", grouped(self.memory.weights.idle));
        }
        if let Some(verdict) = &self.verdict {
            text.push_str(&said(verdict));
        }
        text
    }
}

/// A table with one column per engine.
fn needs(memory: &Memory) -> Table {
    let heads = memory.needs.iter().map(|need| format!("{}, K/V in {}", name(need.engine), need.kv_type));
    let heads: Vec<_> = heads.collect();
    let heads: Vec<_> = std::iter::once("").chain(heads.iter().map(String::as_str)).collect();
    let mut table = Table::new(&heads);
    let mut row = |label: String, bytes: Vec<u64>| {
        table.row(std::iter::once(label).chain(bytes.into_iter().map(grouped)).collect());
    };
    row("weights, mapped".to_owned(), memory.needs.iter().map(|need| need.mapped).collect());
    for (n, layers) in memory.needs[0].kv.iter().enumerate() {
        let label = format!("K/V of {} {} layers", layers.layers, layers.kind);
        row(label, memory.needs.iter().map(|need| need.kv[n].bytes).collect());
    }
    row("working buffers".to_owned(), memory.needs.iter().map(|need| need.working).collect());
    row("program, tokenizer".to_owned(), memory.needs.iter().map(|need| need.process).collect());
    row("peak RSS".to_owned(), memory.needs.iter().map(|need| need.peak_rss).collect());
    row("weights, in the page cache".to_owned(), memory.needs.iter().map(|need| need.cached).collect());
    row("in all".to_owned(), memory.needs.iter().map(|need| need.total).collect());
    table
}

fn said(verdict: &Verdict) -> String {
    let limit = grouped(verdict.limit);
    let mut text = match verdict.fits {
        true => format!("\nfits into {limit} bytes"),
        false => {
            format!("\ndoes not fit into {limit} bytes: {} too many", grouped(verdict.needed - verdict.limit))
        }
    };
    if let Some((recipe, bytes)) = &verdict.least {
        let bytes = grouped(*bytes);
        let _ = writeln!(
            text,
            "; nothing fits with any context. The smallest recipe is {recipe}: {bytes} bytes\n"
        );
    } else {
        let _ = writeln!(text, "; the largest context that fits: {}\n", largest(verdict.largest_context));
    }
    let mut table = Table::new(&["recipe", "for", "bits per weight", "needs", "fits", "largest context"]);
    for candidate in &verdict.recipes {
        table.row(vec![
            candidate.recipe.clone(),
            name(candidate.engine).to_owned(),
            format!("{:.2}", candidate.bits_per_weight),
            grouped(candidate.needed),
            if candidate.fits { "yes" } else { "no" }.to_owned(),
            grouped(candidate.largest_context.unwrap_or(0)),
        ]);
    }
    text + &table.render()
}

fn largest(largest: Option<u64>) -> String {
    largest.map_or_else(|| "none".to_owned(), grouped)
}

fn name(engine: Engine) -> &'static str {
    match engine {
        Engine::LlamaCpp => "llama.cpp",
        Engine::Runtime => "gemma-convert",
    }
}
