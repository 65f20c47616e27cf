#!/usr/bin/env bash
# Installs the program of a release, after its checksum. A step of action.yml, which sets
#   VERSION       without v
#   RELEASES      URL of the folder of releases; a folder has the name of a tag
#   RUNNER_TEMP, GITHUB_PATH   as the runner does
set -euo pipefail

case "$(uname -s)-$(uname -m)" in
  Linux-x86_64) target=x86_64-unknown-linux-gnu ;;
  Linux-aarch64) target=aarch64-unknown-linux-gnu ;;
  Darwin-arm64) target=aarch64-apple-darwin ;;
  Darwin-x86_64) target=x86_64-apple-darwin ;;
  *)
    echo "::error::gemma-convert has no binary for $(uname -s) on $(uname -m)"
    exit 1
    ;;
esac

archive=gemma-convert-v$VERSION-$target.tar.gz
folder=$RUNNER_TEMP/gemma-convert-$VERSION
mkdir -p "$folder"
cd "$folder"
for file in "$archive" "$archive.sha256"; do
  if ! curl --fail --silent --show-error --location --retry 3 --output "$file" "$RELEASES/v$VERSION/$file"; then
    echo "::error::no $file in $RELEASES/v$VERSION"
    exit 1
  fi
done
if command -v sha256sum >/dev/null; then
  sha256sum --check --quiet "$archive.sha256"
else
  shasum --algorithm 256 --check --quiet "$archive.sha256"
fi
tar -xzf "$archive" --strip-components=1
rm "$archive" "$archive.sha256"
echo "$folder" >>"$GITHUB_PATH"
./gemma-convert --version
