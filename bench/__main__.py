"""`python -m bench [--scenario hot_path|image] …`: what serving costs. Each scenario has its own `--help`."""

import argparse
import sys

from bench import hot_path, image

SCENARIOS = {"hot_path": hot_path.main, "image": image.main}

parser = argparse.ArgumentParser(prog="python -m bench", add_help=False)
parser.add_argument("--scenario", choices=SCENARIOS, default="hot_path")
chosen, rest = parser.parse_known_args()
sys.exit(SCENARIOS[chosen.scenario](rest))
