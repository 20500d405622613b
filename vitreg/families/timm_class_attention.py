"""timm's Vision Transformers whose class token has attention of its own: CaiT, XCiT, VOLO, CrossViT, ConViT, TNT, PiT."""
