#!/bin/sh
# Fetches what tests compare Taghook with into target/tools, each at one version: the official Standard Webhooks library
# of Python, which depends on nothing else.
set -eu
tools=$(dirname "$0")/../target/tools
version=1.1.0
home=$tools/standardwebhooks-$version
[ -d "$home" ] && exit
mkdir -p "$tools"
# Built aside and moved when complete, so that an interrupted installation isn't taken for a library.
rm -rf "$home.part"
python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore \
    --no-deps --only-binary :all: --target "$home.part" "standardwebhooks==$version"
mv "$home.part" "$home"
