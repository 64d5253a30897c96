"""Restore a folder or an object store of any size on a cluster (`pip install 'rddm_fast[ray]'`).

for outcome in restore_on_ray(load_model("derain"), "s3://bucket/rainy", "s3://bucket/restored", on="ray://head:10001"):
    print(outcome.source, outcome.error or "restored")
"""

from .restore import restore_on_ray

__all__ = ["restore_on_ray"]
