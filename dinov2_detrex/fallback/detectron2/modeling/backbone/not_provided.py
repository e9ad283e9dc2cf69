"""What stands where a config names a backbone of detectron2 that is not provided here."""


class NotProvided:
    """A lazy config may name and overwrite it; calling it raises."""

    def __init__(self, *args, **kwargs):
        raise NotImplementedError(
            f"{type(self).__name__} is not provided without the real detectron2; "
            "set model.backbone to dinov2_detrex.TimmBackbone, which builds any timm model"
        )
