#!/usr/bin/env bash
# papermill 2.7.0, ipykernel 6.30.1, Python 3.11
#
# A parameter that the notebook does not have, a typo say, is not an error: papermill writes a warning to its log, adds
# the unknown name to the injected cell, runs the notebook on its defaults and exits with 0. A gate in CI is green for a
# run that was never asked for.
#
# Seen: exit code 0, the notebook printed "threshold = 1", log: "Passed unknown parameter: treshold"
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet papermill==2.7.0 ipykernel==6.30.1
cat > "$folder/in.ipynb" <<'NB'
{"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
 "cells": [{"cell_type": "code", "id": "a", "metadata": {"tags": ["parameters"]}, "execution_count": null, "outputs": [], "source": "threshold = 1"},
           {"cell_type": "code", "id": "b", "metadata": {}, "execution_count": null, "outputs": [], "source": "print('threshold =', threshold)"}]}
NB
code=0
PATH="$folder/venv/bin:$PATH" papermill "$folder/in.ipynb" "$folder/out.ipynb" -p treshold 5 > "$folder/log" 2>&1 || code=$?
echo "exit code $code"
grep -o "Passed unknown parameter: treshold" "$folder/log"
grep -o "threshold = 1" "$folder/out.ipynb" | head -1
test "$code" = 0
