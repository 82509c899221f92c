#!/usr/bin/env bash
# nbconvert 7.17.0, Python 3.11
#
# `jupyter nbconvert --to html` with its default template writes one file that looks self-contained and is not: opened
# without a network, or by a reader who must not be seen to open it, it still asks other hosts for scripts, although the
# notebook holds one line of text and neither formulas nor diagrams. `--embed-images` changes nothing about it.
#
# Seen: latest.js (MathJax), mermaid-layout-elk.esm.min.mjs, mermaid.esm.min.mjs, require.min.js
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet nbconvert==7.17.0 ipykernel==6.30.1
cat > "$folder/page.ipynb" <<'NB'
{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [{"cell_type": "markdown", "id": "a", "metadata": {}, "source": "One line."}]}
NB
"$folder/venv/bin/jupyter" nbconvert --to html --embed-images "$folder/page.ipynb" > /dev/null 2>&1
grep -oE 'https://[^"'"'"']*(require|mathjax|MathJax|mermaid)[^"'"'"']*\.m?js' "$folder/page.html" | sed 's|.*/||' | sort -u
for name in require athjax mermaid; do
    grep -qiE "https://[^\"']*$name[^\"']*js" "$folder/page.html"
done
