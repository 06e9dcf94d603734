__version__ = "0.1.0"

import warnings

with warnings.catch_warnings():
    # fastai's layers use torch.jit.script on import; a user can do nothing about its deprecation
    warnings.filterwarnings('ignore', message='.*torch.jit.script.*', category=FutureWarning)
    import fastai.layers

from .encoders import load_encoder
