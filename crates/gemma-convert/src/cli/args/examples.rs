//! Examples for `--help`, one text per command.

pub(super) const INSPECT: &str = "\
Examples:
  gemma-convert inspect gemma-4-E2B-it/
  gemma-convert inspect model-q4_0.gguf --tensors";

pub(super) const PLAN: &str = "\
Examples:
  gemma-convert plan gemma-4-E2B-it/ --recipe q4_0
  gemma-convert plan gemma-4-E2B-it/ --recipe q4_0-offload --memory 2GiB --context 8192
  gemma-convert plan gemma-4-E2B-it/ --recipe q4_0 --mmproj bf16 --memory 8GiB --image-budget 1120";

pub(super) const CONVERT: &str = "\
Examples:
  gemma-convert convert gemma-4-E2B-it/ --recipe q4_0 -o out/
  gemma-convert convert gemma-4-E2B-it/ --lora my-adapter/ --recipe q4_0 -o out/
  gemma-convert convert gemma-4-E2B-it/ --type q8_0 --type q4_k_m -o out/ --skip-existing
  gemma-convert convert gemma-4-E2B-it/ --recipe q4_0-calibrated --text calib.txt -o out/";

pub(super) const JOIN: &str = "\
Examples:
  gemma-convert convert gemma-4-31B-it/ --recipe q4_k_m --part 3/8 -o out/
  gemma-convert join out/
  gemma-convert join from-machine-1/ from-machine-2/ -o out/
  gemma-convert calibrate gemma-4-31B-it/ --text calib.txt --part 3/8 -o out/imatrix.gguf
  gemma-convert join out/imatrix.gguf";

pub(super) const CALIBRATE: &str = "\
Examples:
  gemma-convert calibrate gemma-4-E2B-it/ --text calib.txt -o imatrix.gguf
  gemma-convert calibrate --merge part-1.gguf part-2.gguf -o imatrix.gguf";

pub(super) const SENSITIVITY: &str = "\
Examples:
  gemma-convert sensitivity gemma-4-E2B-it/ --text calib.txt -o sensitivity.json
  gemma-convert convert gemma-4-E2B-it/ --recipe auto --target-size 3.2GB --sensitivity sensitivity.json -o out/";

pub(super) const VERIFY: &str = "\
Examples:
  gemma-convert verify out/model-q4_0.gguf --against gemma-4-E2B-it/ --text eval.txt --max-kld 0.05
  gemma-convert verify out/model-q4_0.gguf --against gemma-4-E2B-it/ --html report.html --markdown report.md
  gemma-convert verify out/ --against gemma-4-E2B-it/ --assistant gemma-4-E2B-it-assistant/ --text eval.txt

Exit codes: 0 success, 1 a check or a limit failed, 2 usage, 3 bad input, 4 I/O error.";

pub(super) const GENERATE: &str = "\
Examples:
  gemma-convert generate out/model-q4_0.gguf --prompt \"The sea is\" -n 64
  gemma-convert generate gemma-4-E2B-it/ --chat --prompt \"Name three rivers.\"";

pub(super) const DRAFT: &str = "\
Examples:
  gemma-convert draft convert gemma-4-E2B-it-assistant/ --target gemma-4-E2B-it/ --type q8_0 -o out/
  gemma-convert draft measure out/draft-q8_0.gguf --target out/model-q4_0.gguf --text prompts.txt";

pub(super) const ADAPTER: &str = "\
Examples:
  gemma-convert adapter convert my-adapter/ --base gemma-4-E2B-it/ -o adapter.gguf
  gemma-convert adapter convert my-adapter/ --base gemma-4-E2B-it/ --type q8_0 -o adapter.gguf";

pub(super) const RELEASE: &str = "\
Examples:
  gemma-convert release google/gemma-4-E2B-it -o out/
  gemma-convert release gemma-4-E2B-it/ --recipe ggml-org --repository me/gemma-4-E2B-it-GGUF -o out/

Exit codes: 0 success, 1 a file failed its verification, 2 usage, 3 bad input, 4 I/O error.";

pub(super) const EDIT: &str = "\
Examples:
  gemma-convert edit out/model-q4_0.gguf --set general.name=Mine --chat-template chat.jinja -o edited.gguf
  gemma-convert edit out/model-q8_0-00001-of-00003.gguf --merge -o whole.gguf
  gemma-convert edit out/model-q8_0.gguf --split-max-size 2GB -o parts/
  gemma-convert edit sha256-4e30e266 --stock -o model.gguf";

pub(super) const PACK: &str = "\
Examples:
  gemma-convert pack ollama out/ --name gemma4-e2b:q4_0
  gemma-convert pack ollama out/model-q4_0.gguf out/mmproj-bf16.gguf --modelfile out/Modelfile";

pub(super) const RECIPES: &str = "\
Examples:
  gemma-convert recipes
  gemma-convert recipes gemma-4-E2B-it/";

pub(super) const TYPES: &str = "\
Examples:
  gemma-convert types
  gemma-convert types gemma-4-E2B-it/ --json";

pub(super) const COMPLETIONS: &str = "\
Examples:
  gemma-convert completions bash > /etc/bash_completion.d/gemma-convert
  gemma-convert completions zsh > ~/.zfunc/_gemma-convert";

pub(super) const MAN: &str = "\
Examples:
  gemma-convert man > gemma-convert.1
  man ./gemma-convert.1";

pub(super) const ALL: &str = "\
Start here:
  gemma-convert convert CHECKPOINT --recipe q4_0 -o out/
  gemma-convert verify out/model-q4_0.gguf --against CHECKPOINT --text eval.txt
  gemma-convert recipes                    the recipes to choose from";
