"""DINOv3's frozen ViT, its adapter without injectors, and its Mask2Former, under their official names.

Siméoni et al., DINOv3, 2025. Written from the published facts (shapes, names, constants); weights come under the
DINOv3 License, from its authors, in two files: the ViT, and the adapter with its head.

Everything computes in the type of its weights (fp32 as loaded). The official program runs the ViT under bf16 autocast,
a habit of its training; the arithmetic meant is the same.
"""
