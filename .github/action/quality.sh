#!/usr/bin/env bash
# Converts a model and verifies the outputs. Two steps of action.yml, which sets MODEL, RECIPE, TEXT, MAX_KLD,
# CONVERT_OPTIONS and VERIFY_OPTIONS (its inputs), OUT and REPORTS (folders).
#   quality.sh key   prints a digest of what decides the bytes of the outputs, as an output of the step
#   quality.sh run   converts what OUT has not, verifies all of OUT, and fails if an output is not good
# no -u: in the bash of macOS an empty array is unset
set -eo pipefail

# the words of texts
read -r -d '' -a recipes <<<"${RECIPE?}" || true
read -r -d '' -a convert_options <<<"${CONVERT_OPTIONS?}" || true
read -r -d '' -a verify_options <<<"${VERIFY_OPTIONS?}" || true

digest() { if command -v sha256sum >/dev/null; then sha256sum; else shasum --algorithm 256; fi | cut -c1-64; }

# The commit of a model on the hub, or the digest of a folder.
identity() {
  if [ -d "${MODEL?}" ]; then
    cat "$MODEL"/*.json "$MODEL"/*.safetensors | digest
    return
  fi
  local id=${MODEL#hf://} revision=main
  if [[ $id == *@* ]]; then revision=${id#*@} id=${id%%@*}; fi
  # headers alone; the cache then knows the commit
  gemma-convert inspect "$MODEL" --quiet >/dev/null
  local cache=${HF_HUB_CACHE:-${HF_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/huggingface}/hub}
  # a commit has no file there, and is itself what is asked for
  cat "$cache/models--${id/\//--}/refs/$revision" 2>/dev/null || printf '%s' "$revision"
}

key() {
  local model version
  model=$(identity)
  version=$(gemma-convert --version)
  {
    # of the version the line with the commit, without what the processor has
    printf '%s\n' "${version%%$'\n'*}" "$model" "$RECIPE" "$CONVERT_OPTIONS"
    # recipes, texts, importance matrices
    for word in "${recipes[@]}" "${convert_options[@]}"; do
      if [ -f "$word" ]; then digest <"$word"; fi
    done
  } | digest | sed 's/^/key=gemma-convert-/'
  printf 'name=gemma-convert-%s\n' "$(printf '%s' "${recipes[*]}" | tr -c 'A-Za-z0-9._-' -)"
}

run() {
  local recipe options=() predictions=()
  for recipe in "${recipes[@]}"; do options+=(--recipe "$recipe"); done
  gemma-convert convert "$MODEL" "${options[@]}" "${convert_options[@]}" -o "$OUT" --skip-existing
  if [ -n "$TEXT" ]; then predictions+=(--text "$TEXT"); fi
  if [ -n "$MAX_KLD" ]; then predictions+=(--max-kld "$MAX_KLD"); fi
  mkdir -p "$REPORTS"
  gemma-convert verify "$OUT" --against "$MODEL" --quiet "${predictions[@]}" "${verify_options[@]}" \
    --markdown "$GITHUB_STEP_SUMMARY" --report-json "$REPORTS/report.json" --html "$REPORTS/report.html"
}

case "$1" in key | run) "$1" ;; esac
