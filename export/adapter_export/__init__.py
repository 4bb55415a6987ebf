"""From a ViT-Adapter model in PyTorch to a checked ONNX file. Importing this package alone imports no torch or onnx."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adapter_export.exporter import export as export
    from adapter_export.report import ExportReport as ExportReport

__all__ = ["ExportReport", "export"]


def __getattr__(name: str) -> Any:
    if name == "export":
        from adapter_export.exporter import export

        return export
    if name == "ExportReport":
        from adapter_export.report import ExportReport

        return ExportReport
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
