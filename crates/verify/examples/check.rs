use std::path::Path;
use verify::*;
fn main() {
    let base = std::env::args().nth(1).unwrap();
    for a in std::env::args().skip(2) {
        if let Err(e) = one(&base, &a) {
            println!("{a}: ERROR {e}");
        }
    }
}
fn one(base: &str, a: &str) -> tensor::Result<()> {
    let t = std::time::Instant::now();
    let set = gguf::GgufSet::open(a)?;
    let p = Provenance::of(&set)?;
    let (hashed, mut all) = p.check_files(&set, &|_| {})?;
    let th = t.elapsed();
    let ck;
    let gg;
    let e;
    let b: &dyn tensor::TensorSource;
    if Path::new(base).is_dir() {
        ck = checkpoint::Checkpoint::open(base)?;
        let m = gemma::Model::open(&ck)?;
        e = Expected::of_checkpoint(&ck, &m, &p.recipe, p.plan.clone(), p.binding)?;
        b = &ck;
    } else {
        gg = gguf::GgufSet::open(base)?;
        e = Expected::of_gguf(&gg)?;
        b = &gg;
    }
    let (mut s, f) = structure(&set, &e)?;
    s.hashed = hashed;
    all.extend(f);
    let ts = t.elapsed();
    let (te, f) = tensor_errors(&set, b, &e, &|_| {})?;
    all.extend(f);
    println!("{a}: {s:?} hash {th:?} structure {ts:?} all {:?}", t.elapsed());
    for r in &te.roles {
        if std::env::var_os("ROLES").is_some() {
            println!("   {} {:.5} cos {:.6}", r.role, r.relative, r.cosine);
        }
    }
    let w =
        te.tensors.iter().max_by(|a, b| a.worst_block.relative.total_cmp(&b.worst_block.relative)).unwrap();
    println!("   worst32 {} {:?}", w.name, w.worst_block);
    for f in all {
        println!("   {:?} {} | {} | {:?} {:?}", f.severity, f.place, f.problem, f.expected, f.found);
    }
    Ok(())
}
