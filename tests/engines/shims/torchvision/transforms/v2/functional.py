"""Any name that is imported: none can be called."""

from torchvision.transforms.functional import __getattr__  # noqa: F401
