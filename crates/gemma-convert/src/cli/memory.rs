//! The memory estimate of planned outputs: a table for people, fields for machines.

use std::fmt::Write;

use gemma_convert::{
    ArtifactMemory, Conditions, Engine, MediaTokens, Memory, PlanOutcome, Verdict, WeightMemory,
};
use report::{Table, grouped};
use serde::Serialize;

/// The memory estimate of an artifact, and whether it fits.
#[derive(Serialize)]
pub(crate) struct MemoryPlan {
    recipe: String,
    /// The recipe of the mmproj file that is counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    mmproj: Option<String>,
    #[serde(flatten)]
    memory: Memory,
    /// Only with `--memory`.
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<Verdict>,
}

/// The memory estimates of all artifacts.
pub(crate) fn of(outcome: &PlanOutcome) -> Vec<MemoryPlan> {
    let of_one = |ArtifactMemory { recipe, mmproj, memory, verdict }: &ArtifactMemory| MemoryPlan {
        recipe: recipe.clone(),
        mmproj: mmproj.clone(),
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
        let Memory { context, batch, threads, media, .. } = &self.memory;
        let context = grouped(*context);
        let mut text = format!(
            "\nmemory with {context} tokens of context, batches of {batch} tokens, {threads} threads; in bytes\n"
        );
        if let Some(media) = media {
            let _ = writeln!(text, "{}", self.counted(media));
        }
        text.push('\n');
        text.push_str(&needs(&self.memory).render());
        if self.memory.weights.towers > 0 {
            let WeightMemory { resident, towers, .. } = self.memory.weights;
            let (resident, towers) = (grouped(resident), grouped(towers));
            let _ = writeln!(text, "resident: {resident} bytes, {towers} of them image and audio towers");
        }
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
            let _ = writeln!(text, "never read: {} bytes", grouped(self.memory.weights.idle));
        }
        if let Some(verdict) = &self.verdict {
            text.push_str(&said(verdict));
        }
        text
    }

    /// The image and the sound of the estimate, and a batch that llama.cpp does not have by default.
    fn counted(&self, media: &MediaTokens) -> String {
        let image = format!("an image of {} soft tokens", grouped(media.image));
        let sound = format!("{} seconds of sound ({} soft tokens)", media.seconds, grouped(media.sound));
        let (image, sound) = ((media.image > 0).then_some(image), (media.sound > 0).then_some(sound));
        let parts: Vec<_> = [image, sound].into_iter().flatten().collect();
        let towers = self.mmproj.as_deref().unwrap_or("the folder's own towers");
        let mut text = format!(
            "with {}, by {towers}: {} tokens of the context",
            if parts.is_empty() { "no image and no sound".to_owned() } else { parts.join(" and ") },
            grouped(media.context)
        );
        let batch = self.memory.batch;
        if batch > Conditions::BATCH {
            let _ = write!(
                text,
                "\nan image is one batch in this model: llama.cpp needs --ubatch-size {batch} --batch-size {batch}"
            );
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
    if memory.media.is_some() {
        row("towers".to_owned(), memory.needs.iter().map(|need| need.towers).collect());
        row("image and sound".to_owned(), memory.needs.iter().map(|need| need.media).collect());
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
