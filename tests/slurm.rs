//! The job file for Slurm, run by a real Slurm: a part is cancelled and run again, a node is drained, and the artifact is that of
//! the single run. An importance matrix is collected by an array, too, and a calibrated conversion is made and verified by two.

use std::path::Path;

use crate::support::slurm::Slurm;
use crate::support::{convert, fixture, json, run, sha256, text};

#[test]
fn an_array_of_parts_survives_a_cancelled_task_and_a_drained_node() {
    let home = tempfile::tempdir().unwrap();
    let Some(slurm) = Slurm::start(&home.path().join("slurm"), 3) else { return };
    let (from, single, out) = (fixture("e2b"), home.path().join("single"), home.path().join("out"));
    convert(&from, &single, &["--type", "q6_k"]).good();

    let program = Path::new(env!("CARGO_BIN_EXE_gemma-convert"));
    let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let submit_with = |variables: &[(&str, &str)], script: &Path, args: &[&str]| {
        let mut command = slurm.command(script);
        command.args(args).env("PATH", &path).envs([("CPUS", "1"), ("MEM", "500M")]);
        command.envs(variables.iter().copied());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let submit = |script: &Path, args: &[&str]| submit_with(&[], script, args);
    // nothing starts yet
    slurm.call("scontrol", &["update", "PartitionName=all", "State=DOWN"]);
    let (model, target) = (from.to_str().unwrap(), out.to_str().unwrap());
    let script = testkit::root().join("contrib/slurm.sh");
    let join: u32 = submit(&script, &["6", model, target, "--type", "q6_k"]).parse().unwrap();
    slurm.call("scancel", &[&format!("{}_3", join - 1)]);
    slurm.call("scontrol", &["update", "PartitionName=all", "State=UP"]);
    slurm.call("scontrol", &["update", "NodeName=n2", "State=DRAIN", "Reason=test"]);
    // the task that joins cannot run any more, and goes
    slurm.drained();
    assert!(!out.join("model-q6_k.gguf").exists());

    let again = format!(
        "gemma-convert convert {model} -o {target} --type q6_k --part 3/6 && gemma-convert join {target}"
    );
    submit(Path::new("sbatch"), &["--wait", "--output=again.log", &format!("--wrap={again}")]);
    let log = std::fs::read_to_string(home.path().join("slurm/again.log")).unwrap();
    assert_eq!(sha256(&out.join("model-q6_k.gguf")), sha256(&single.join("model-q6_k.gguf")), "{log}");

    // an array that nothing disturbs, and one after it
    let other = home.path().join("other");
    let join = submit(&script, &["4", model, other.to_str().unwrap(), "--type", "q6_k"]);
    let (alone, file, calib) =
        (home.path().join("alone.gguf"), other.join("imatrix.gguf"), text("calib.txt"));
    let options = ["--text", calib.to_str().unwrap(), "-c", "256", "--chunks", "24"];
    run([&["calibrate", model, "-o", alone.to_str().unwrap()], &options[..]].concat()).good();
    let variables = [("COMMAND", "calibrate"), ("AFTER", join.as_str())];
    submit_with(&variables, &script, &[&["3", model, file.to_str().unwrap()], &options[..]].concat());
    slurm.drained();
    assert_eq!(sha256(&other.join("model-q6_k.gguf")), sha256(&single.join("model-q6_k.gguf")));
    assert_eq!(sha256(&file), sha256(&alone));

    // calibrated, with a part that is cancelled and submitted again
    let (single, out) = (home.path().join("single-calibrated"), home.path().join("calibrated"));
    let set = ["--set", "calibration.context=256", "--set", "calibration.groups=3"];
    let options = ["--recipe", "q4_0-calibrated", "--text", calib.to_str().unwrap(), "--chunks", "9"];
    let options = [&options[..], &set].concat();
    convert(&from, &single, &options).good();
    let target = out.to_str().unwrap();
    slurm.call("scontrol", &["update", "PartitionName=all", "State=DOWN"]);
    let join: u32 = submit(&script, &[&["3", model, target], &options[..]].concat()).parse().unwrap();
    slurm.call("scancel", &[&format!("{}_2", join - 1)]);
    slurm.call("scontrol", &["update", "PartitionName=all", "State=UP"]);
    slurm.drained();
    let file = "model-calibrated-q4_0.gguf";
    assert!(!out.join(file).exists());
    let options = options.join(" ");
    let again = format!(
        "gemma-convert convert {model} -o {target} {options} --part 2/3 && gemma-convert join {target}"
    );
    submit(Path::new("sbatch"), &["--wait", "--output=calibrated.log", &format!("--wrap={again}")]);
    let log = std::fs::read_to_string(home.path().join("slurm/calibrated.log")).unwrap();
    assert_eq!(sha256(&out.join(file)), sha256(&single.join(file)), "{log}");

    // and verified, likewise
    let eval = text("eval.txt");
    let artifact = out.join(file);
    let options = ["--against", model, "--text", eval.to_str().unwrap(), "-c", "256", "--chunks", "24"];
    let verify = [&["verify", artifact.to_str().unwrap()], &options[..]].concat();
    let [whole, report, parts] = ["whole.json", "report.json", "parts"].map(|name| home.path().join(name));
    run(verify.iter().copied().chain(["--report-json", whole.to_str().unwrap()])).good();
    slurm.call("scontrol", &["update", "PartitionName=all", "State=DOWN"]);
    let of_report = format!("--report-json {}", report.display());
    let job = [&["3", artifact.to_str().unwrap(), parts.to_str().unwrap()], &options[..]].concat();
    let variables = [("COMMAND", "verify"), ("JOIN", of_report.as_str())];
    let join: u32 = submit_with(&variables, &script, &job).parse().unwrap();
    slurm.call("scancel", &[&format!("{}_2", join - 1)]);
    slurm.call("scontrol", &["update", "PartitionName=all", "State=UP"]);
    slurm.drained();
    assert!(!report.exists());
    let (verify, parts) = (format!("gemma-convert {}", verify.join(" ")), parts.display());
    let again = format!("{verify} --part 2/3 -o {parts} && {verify} --join {parts} {of_report}");
    submit(Path::new("sbatch"), &["--wait", "--output=verified.log", &format!("--wrap={again}")]);
    let log = std::fs::read_to_string(home.path().join("slurm/verified.log")).unwrap();
    let timeless = |path: &Path| {
        let mut report = json(path);
        // the command and its times
        for key in ["run", "seconds"] {
            report.as_object_mut().unwrap().remove(key).unwrap();
        }
        report
    };
    assert_eq!(timeless(&report), timeless(&whole), "{log}");
}
