"""Accuracy, and attention on the object, in the course of the training.

The paper trains long: 3,000 batches of 768 images, which over 900 pictures is 2,500 epochs. This shows what
happens on the way there, at ten moments of each run or every --measure-every steps.

Where does a guide begin to pay? With --measure-every log it is looked at after 1, 2, 4, 8 steps and so on.

    python recipes/steps.py
    python recipes/steps.py --data DIR --weights FILE --model deit_tiny_patch16_224 --steps 2000
    python recipes/steps.py --data DIR --weights FILE --shots 5 --batch-size 64 --steps 4000 \\
        --measure-every log --methods fine-tune GTA LP-FT LP-FT+GTA
    python recipes/steps.py --preset paper --data CUB=DIR Cars=DIR --weights FILE
"""

from engine.experiment.job import Table
from engine.results.plots import draw_steps
from engine.scripts.console import table_script

TABLE = Table("steps", methods=("fine-tune", "GTA"), measures=10)
main = table_script(TABLE, __doc__, draw=draw_steps)

if __name__ == "__main__":
    raise SystemExit(main())
