"""timm's attention classes beside the plain one: relative positions, parallel and differential blocks, pooling."""
