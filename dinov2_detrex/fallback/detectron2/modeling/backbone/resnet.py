"""The names of detectron2's ResNet, for configs that load a ResNet base file and then replace its backbone."""

from dinov2_detrex.engine import NotProvided


class BasicStem(NotProvided):
    """Named by base configs, not provided here."""


class ResNet(NotProvided):
    """Named by base configs, not provided here."""

    @staticmethod
    def make_default_stages(*args, **kwargs):
        """Named by base configs; raises like the class."""
        return ResNet(*args, **kwargs)
