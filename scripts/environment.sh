# Sourced by ./demo and ./check: sets `python` to an interpreter that has contraflow and what the caller needs.
#
#   . scripts/environment.sh EXTRA      EXTRA: lab for ./demo, dev for ./check
#
# By default that is .venv/bin/python. The virtual environment is made if there is none, and brought up to date if
# pyproject.toml or constraints.txt have changed. CONTRAFLOW_PYTHON=python uses that interpreter as it is, for instance
# the one of an activated environment; then nothing is made and nothing is installed.
if [ -n "${CONTRAFLOW_PYTHON:-}" ]; then
  python=$CONTRAFLOW_PYTHON
else
  # A path to another tree would hide this one.
  unset PYTHONPATH PYTHONHOME
  # The constraints reach the environments in which pip builds only through this variable.
  export PIP_CONSTRAINT="$PWD/constraints.txt" PIP_DISABLE_PIP_VERSION_CHECK=1
  if [ ! -x .venv/bin/python ]; then
    for candidate in python3 python3.13 python3.12 python3.11 python3.10 ""; do
      if [ -z "$candidate" ]; then
        echo "${0##*/}: contraflow needs Python 3.10 to 3.13, and none is on the PATH." >&2
        exit 2
      fi
      "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null && break
    done
    echo "${0##*/}: making .venv with $("$candidate" --version)"
    "$candidate" -m venv .venv
  fi
  python=$PWD/.venv/bin/python
  installed=.venv/contraflow-$1
  wanted=$(cat pyproject.toml constraints.txt | cksum)
  if [ "$(cat "$installed" 2>/dev/null)" != "$wanted" ]; then
    echo "${0##*/}: installing contraflow[$1] into .venv; the first time this takes a few minutes"
    "$python" -m pip install --quiet --editable ".[$1]"
    echo "$wanted" > "$installed"
  fi
fi
