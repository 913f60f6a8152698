"""What is timed, and against what: this project beside the way published code computes (docs/PERFORMANCE.md).

python -m mocoop.benchmarks.step      one training step or test batch, both ways side by side
python -m mocoop.benchmarks.scale     how time and memory grow with classes, experts and batch
python -m mocoop.benchmarks.loading   images per second, decoded once or at every access, workers or none
python -m mocoop.benchmarks.predict   images per second of a classifier over a folder, beside its image tower alone
python -m mocoop.benchmarks.report    the page, from the JSON files of the first two
"""
