"""Denoising of images by penalties that are learned from clean and noisy pairs.

The lower level denoises, the upper level compares with the clean image; `maid` learns what the
penalty is made of: two numbers for total variation, thousands for fields of experts.
"""

from .foe import FieldsOfExperts as FieldsOfExperts
from .foe import field_start as field_start
from .foe import fields_of_experts as fields_of_experts
from .images import psnr as psnr
from .tv import TVDenoiser as TVDenoiser
from .tv import smoothed_tv as smoothed_tv
