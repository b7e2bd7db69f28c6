"""The engine over OpenVINO's paged KV cache."""

from ov_kvcrush.runtime.plugin.amx import avoid_undescribed_tiles

# Here, because every use of OpenVINO in the package comes through the runtime.
avoid_undescribed_tiles()
