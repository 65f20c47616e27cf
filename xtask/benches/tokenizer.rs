//! The tokenizer: the evaluation text of the fixtures, by the tokenizer of the trained E2B fixture.

use checkpoint::Checkpoint;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use text::Tokenizer;

fn tokenizer(criterion: &mut Criterion) {
    let checkpoint = Checkpoint::open(testkit::fixtures("checkpoints/e2b")).expect("the fixture");
    let tokenizer = Tokenizer::from_checkpoint(&checkpoint).expect("its tokenizer");
    let text = std::fs::read_to_string(testkit::fixtures("text/eval.txt")).expect("the text");
    let ids = tokenizer.encode(&text, true, false).expect("token ids");
    let mut group = criterion.benchmark_group("tokenizer");
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("encode", |bencher| bencher.iter(|| tokenizer.encode(&text, true, false)));
    group.bench_function("decode", |bencher| bencher.iter(|| tokenizer.decode(&ids)));
    group.finish();
}

criterion_group!(benches, tokenizer);
criterion_main!(benches);
