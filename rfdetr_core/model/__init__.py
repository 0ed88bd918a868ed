"""The RF-DETR network: windowed ViT, projector, two-stage proposals, deformable decoder, heads."""
