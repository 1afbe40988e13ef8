"""The networks that this package knows by name.

A preset fixes the architecture alone. Dropout rates, targets and the weights come from training
and live in the checkpoint.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from survey_gampen.errors import InputError
from survey_gampen.model.orientations import COUNTS

#: 1 ADU of an HSC coadd in nJy: AB zero point 27.0 (Aihara et al. 2018, PASJ 70, S8).
HSC_ADU_NJY = 57.544


@dataclass(frozen=True)
class Architecture:
    """Everything that is needed to build a :class:`~survey_gampen.model.network.Gampen`.

    Attributes
    ----------
    preset : str
        Name under which these values are known.
    size : int
        Side of the square cutout [px].
    pixel_scale : float
        Scale of the cutouts [arcsec / px].
    stretch : float
        The network sees ``arcsinh(image / stretch)`` [nJy].
    localisation_pool : int
        The localisation network sees the image averaged over squares of this side [px].
    localisation : tuple of int
        Widths of its two convolutions (11 x 11 and 9 x 9) and of its hidden layer.
    convolutions : tuple of int
        Widths of the five convolutions of the regression network.
    hidden : tuple of int
        Widths of its two hidden fully connected layers.
    outputs : int
        3 (means; the loss is the squared error) or 9 (means, log-variances, covariances).
    head_sees_crop : bool
        Append the six parameters of the affine transformation to the input of the first fully
        connected layer. What comes after the sampler sees resampled pixels only, so without
        them it cannot know the scale on which it sees the galaxy.
    dropout : str
        "regression": before each weight layer of the regression network but the first;
        "everywhere": the localisation network and the first convolution too.
    orientations : int
        How many orientations of an image the passes see in turn (1, 4 or 8;
        :mod:`survey_gampen.model.orientations`).
    channels : int
        Bands of an image. All are localised on together, and get one crop.

    Raises
    ------
    ValueError
        If there are no so many orientations, or no channel.
    """

    preset: str = "survey"
    size: int = 239
    pixel_scale: float = 0.168
    stretch: float = HSC_ADU_NJY
    localisation_pool: int = 4
    localisation: tuple[int, int, int] = (64, 96, 32)
    convolutions: tuple[int, int, int, int, int] = (64, 192, 384, 256, 256)
    hidden: tuple[int, int] = (416, 512)
    outputs: int = 9
    head_sees_crop: bool = True
    dropout: str = "regression"
    # What checkpoints that do not say so mean:
    orientations: int = 1
    channels: int = 1

    def __post_init__(self) -> None:
        if self.orientations not in COUNTS:
            raise ValueError(f"orientations are 1, 4 or 8, not {self.orientations}")
        if self.channels < 1:
            raise ValueError(f"channels are 1 or more, not {self.channels}")

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of one image: (size, size), or (channels, size, size) of several bands."""
        side = (self.size, self.size)
        return side if self.channels == 1 else (self.channels, *side)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def check_takes(self, size: int, pixel_scale: float) -> None:
        """See that a network is made for such images.

        Raises
        ------
        InputError
            If their size [px] or pixel scale [arcsec / px] differs.
        """
        for what, own, given in (
            ("size", self.size, size),
            ("pixel_scale", self.pixel_scale, pixel_scale),
        ):
            if own != given:
                raise InputError(
                    f"the model takes images of {what} {own}, these have {given}: choose another "
                    "model"
                )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Architecture:
        """Inverse of :meth:`to_dict`.

        Raises
        ------
        InputError
            If a key is unknown: the checkpoint is from another version.
        """
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise InputError(f"unknown architecture settings {unknown}: update survey-gampen")
        plain: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        return cls(**plain)


#: ``gampen-2021``: the authors' public code of that time (Ghosh et al. 2021, arXiv:2107.01654).
#: ``survey``: full covariance (as Ghosh et al. 2022, ApJ 935, 138) at a size that fits 15 MB in
#: half precision, localises at a fortieth of the cost and looks from all sides.
#: ``gamornet``: that with the widths of GaMorNet (Ghosh et al. 2020, ApJ 895, 112), which are
#: AlexNet's; for comparison, its weights are 110 MB.
PRESETS = {
    "survey": Architecture(orientations=8),
    "gampen-2021": Architecture(
        preset="gampen-2021",
        localisation_pool=1,
        hidden=(1024, 512),
        outputs=3,
        head_sees_crop=False,
    ),
    "gamornet": Architecture(
        preset="gamornet",
        convolutions=(96, 256, 384, 384, 256),
        hidden=(4096, 4096),
        orientations=8,
    ),
}


def architecture(name: str, **changes: Any) -> Architecture:
    """The architecture of preset `name`, with single values changed.

    Raises
    ------
    InputError
        If there is no such preset.
    """
    if name not in PRESETS:
        raise InputError(f"no preset {name!r}: choose one of {', '.join(PRESETS)}")
    return replace(PRESETS[name], **changes)
