"""RDDM as a pipeline of Hugging Face's diffusers (`pip install 'rddm_fast[diffusers]'`).

    pipe = RDDMPipeline.from_rddm(load_model("derain"))
    restored = pipe(image).images[0]
    pipe.save_pretrained("derain-pipeline")

Saved pipelines name their parts by this module, so these names must stay.
"""

from ...system.extras import require

require("diffusers", "diffusers")  # so that its absence is one sentence

# isort: split
# diffusers looks for the base classes of a saved part in the module that the pipeline's folder names: this one.
from diffusers import ModelMixin, SchedulerMixin  # noqa: E402

from .pipeline import RDDMPipeline  # noqa: E402
from .scheduler import RDDMScheduler, RDDMSchedulerOutput  # noqa: E402
from .unet import RDDMUNetModel, RDDMUNetOutput  # noqa: E402

__all__ = [
    "ModelMixin",
    "RDDMPipeline",
    "RDDMScheduler",
    "RDDMSchedulerOutput",
    "RDDMUNetModel",
    "RDDMUNetOutput",
    "SchedulerMixin",
]
