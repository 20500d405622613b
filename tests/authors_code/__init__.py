"""Small models of the structure of authors' own code that no registry has, written anew for these tests.

Names of classes, arguments and submodules are those of the code, because hooks and checkpoints go by them;
bodies are as short as the structure allows. Each file's `MODELS` names what it builds: 64×64 pictures, 4×4
patches, 2 blocks, width 32, 2 heads.
"""

from authors_code import clip, deit, dino, dinov2, dinov3, mae, monai

MODELS = {
    **dino.MODELS,
    **dinov2.MODELS,
    **dinov3.MODELS,
    **mae.MODELS,
    **deit.MODELS,
    **clip.MODELS,
    **monai.MODELS,
}
"""For each model by name, a function that builds it."""
