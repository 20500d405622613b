"""Hugging Face's Vision Transformers: ViT, DeiT, DINOv2, DINOv3, CLIP, SigLIP, BEiT."""
