"""Other projects' checkpoints, as our models."""

from fastgen.convert.pixelcnnpp import (
    load_pixelcnnpp_openai,
    load_pixelcnnpp_pytorch,
    to_pixelcnnpp_pytorch,
)

__all__ = ["load_pixelcnnpp_openai", "load_pixelcnnpp_pytorch", "to_pixelcnnpp_pytorch"]
