"""Portraits drawn from numbers: all 40 CelebA attributes, vectorised over images, at any size.

`draw_portraits` paints from back to front: background, hair behind, neck, clothes, head, features, hair in front, hat,
jewellery, light. Every shape is a function of face coordinates, in which the eyes lie near (±0.2, −0.06) and the chin near
(0, 0.6), x to the right and y down; the shorter side of the picture spans −1 to 1. So a face is the same at every size.

Pixels are computed only by additions, multiplications, divisions, square roots and comparisons, which all processors round
alike: a portrait is identical to the bit, alone or in a batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ATTRIBUTES = (
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips", "Big_Nose",
    "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Double_Chin", "Eyeglasses", "Goatee",
    "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache", "Narrow_Eyes", "No_Beard",
    "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks", "Sideburns", "Smiling", "Straight_Hair",
    "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat", "Wearing_Lipstick", "Wearing_Necklace", "Wearing_Necktie", "Young",
)  # fmt: skip
SMALLEST = 32  # pixels; below it, an earring disappears
ACCIDENTS = 87  # uniform numbers per portrait, for everything but the attributes
MARGIN = 0.22  # the farthest that pose moves a point of the face


@dataclass
class Canvas:
    """A rectangle of the pictures being painted. Painting on a window paints on the whole."""

    pixels: Tensor  # float32 [3, B, h, w], 0 to 1
    x: Tensor  # float32 [B, h, w], face coordinates of each pixel
    y: Tensor
    pixel: Tensor  # float32 [B, 1, 1], size of a pixel in face coordinates: the width of a sharp edge
    across: Tensor  # float32 [w] and [h], the same before the pose, by which a window is cut
    down: Tensor

    def window(self, left: float, top: float, right: float, bottom: float) -> Canvas:
        """The part that contains these face coordinates in every pose."""
        columns = _span(self.across, left, right)
        rows = _span(self.down, top, bottom)
        return Canvas(
            self.pixels[:, :, rows, columns],
            self.x[:, rows, columns],
            self.y[:, rows, columns],
            self.pixel,
            self.across[columns],
            self.down[rows],
        )

    def paint(self, mask: Tensor, colour: Tensor) -> None:
        """Lay `colour` [3, B, 1, 1] over the pixels where `mask` [B, h, w] is 1, in proportion where it is below 1."""
        self.pixels += mask * (colour - self.pixels)

    def shade(self, mask: Tensor, amount: Tensor | float) -> None:
        """Make pixels lighter (above 0) or darker (below 0) by a fraction of their own colour."""
        self.pixels *= 1 + mask * amount

    def inside(self, distance: Tensor, soft: float = 0.0) -> Tensor:
        """1 where a distance is negative, 0 where it is positive; the edge is a pixel wide, or `soft` if that is wider."""
        return (0.5 - distance / self.pixel.clamp(min=soft)).clamp_(0, 1)


def _span(places: Tensor, low: float, high: float) -> slice:
    kept = ((places >= low - MARGIN) & (places <= high + MARGIN)).nonzero()
    return slice(int(kept[0]), int(kept[-1]) + 1) if len(kept) else slice(0, 0)


# ---------------------------------------------------------------------------------------------- shapes


def ellipse(x: Tensor, y: Tensor, a: Tensor | float, b: Tensor | float) -> Tensor:
    """Approximate distance from an ellipse around 0 with half axes a and b; negative inside."""
    u, v = x / a, y / b
    least = torch.minimum(torch.as_tensor(a), torch.as_tensor(b))
    return ((u * u + v * v).sqrt_() - 1).mul_(least)


def squircle(u: Tensor, v: Tensor, square: Tensor) -> Tensor:
    """Approximate distance from a shape between the unit circle (square 0) and the square around it (1); a drop below 0."""
    uu, vv = u * u, v * v
    shape = uu + vv - square * uu * vv
    return torch.maximum(shape, torch.maximum(uu, vv)).sqrt_() - 1  # far out the first falls below 1 again


def blob(x: Tensor, y: Tensor, a: Tensor | float, b: Tensor | float) -> Tensor:
    """A soft spot: 1 at its centre, 0 on and beyond the ellipse with half axes a and b."""
    u, v = x / a, y / b
    spot = (1 - u * u - v * v).clamp_(min=0)
    return spot * spot


def bow(x: Tensor, half: Tensor | float) -> Tensor:
    """A parabola: 1 at its centre, 0 at ±half and beyond."""
    u = x / half
    return (1 - u * u).clamp_(min=0)


def wave(t: Tensor) -> Tensor:
    """An approximation of sin(2πt) by parabolas."""
    u = (t - t.floor()) * 2 - 1  # -1 to 1 over a period
    return -4 * u * (1 - u.abs())


def mix(low: Tensor, high: Tensor, amount: Tensor) -> Tensor:
    """`low` where the amount is 0, `high` where it is 1."""
    return low + amount * (high - low)


def colour(red: float, green: float, blue: float) -> Tensor:
    """A colour for painting: float32 [3, 1, 1, 1]."""
    return torch.tensor([red, green, blue]).reshape(3, 1, 1, 1)


DARK_SKIN, MEDIUM_SKIN, LIGHT_SKIN = colour(0.42, 0.27, 0.19), colour(0.76, 0.55, 0.42), colour(0.92, 0.74, 0.62)
PALE_SKIN = colour(0.98, 0.92, 0.89)
RED_HAIR, BLACK_HAIR, BROWN_HAIR = colour(0.62, 0.27, 0.14), colour(0.06, 0.05, 0.06), colour(0.33, 0.20, 0.11)
BLOND_HAIR, GRAY_HAIR = colour(0.93, 0.77, 0.42), colour(0.74, 0.75, 0.78)
WHITE, BLACK, GOLD = colour(0.97, 0.96, 0.94), colour(0.05, 0.04, 0.05), colour(0.95, 0.78, 0.25)


# ---------------------------------------------------------------------------------------------- a person


class Person:
    """The intensity of each attribute of a batch of people, and their accidents, each [B, 1, 1]."""

    def __init__(self, intensity: Tensor, accidents: Tensor) -> None:
        """Take intensities, float32 [B, 40], in `ATTRIBUTES`' order, and accidents, float32 [B, ACCIDENTS], in 0..1."""
        self.intensity = {name: intensity[:, column, None, None] for column, name in enumerate(ATTRIBUTES)}
        self.accidents = iter(accidents.T[:, :, None, None])
        self.skin = self._skin()
        self.hair = self._hair()

    def degree(self, name: str) -> Tensor:
        """Amount of a gradual attribute: 0 to 1 over three standard deviations."""
        return (0.5 + self.intensity[name] / 3).clamp(0, 1)

    def presence(self, name: str) -> Tensor:
        """Visibility of an attribute that is worn or not: 0 to 1 over one standard deviation."""
        return (0.5 + self.intensity[name]).clamp(0, 1)

    def chance(self, low: float = 0.0, high: float = 1.0) -> Tensor:
        """The next accident of birth, pose or light: uniform between low and high."""
        return low + (high - low) * next(self.accidents)

    def colour(self, low: float = 0.0, high: float = 1.0) -> Tensor:
        """A random colour, more grey than bright: [3, B, 1, 1]."""
        hue = torch.stack([self.chance(low, high) for _ in range(3)])
        return mix(self.chance(low, high), hue, torch.tensor(0.55))

    def _skin(self) -> Tensor:
        tone = self.chance()
        skin = torch.where(tone < 0.5, mix(DARK_SKIN, MEDIUM_SKIN, tone * 2), mix(MEDIUM_SKIN, LIGHT_SKIN, tone * 2 - 1))
        return mix(skin, PALE_SKIN, self.degree("Pale_Skin") * 0.9) * self.chance(0.94, 1.04)

    def _hair(self) -> Tensor:
        """A mixture of the colours present; red if there are none."""
        mixed, total = 0.15 * RED_HAIR, torch.full_like(self.intensity["Male"], 0.15)
        for name, shade in (
            ("Black_Hair", BLACK_HAIR), ("Brown_Hair", BROWN_HAIR), ("Blond_Hair", BLOND_HAIR), ("Gray_Hair", GRAY_HAIR),
        ):  # fmt: skip
            amount = self.degree(name)
            amount = amount * amount
            mixed, total = mixed + amount * shade, total + amount
        return mixed / total * self.chance(0.85, 1.1)


def draw_portraits(intensity: Tensor, accidents: Tensor, grain: Tensor) -> Tensor:
    """Paint a batch of portraits.

    Args:
        intensity: float32 [B, 40], of each of `ATTRIBUTES`, 0 where a viewer would be undecided; see `draw_people`.
        accidents: float32 [B, ACCIDENTS], uniform in 0..1: pose, light, colours, proportions.
        grain: float32 [B, H, W], uniform in 0..1: the camera's noise; its shape is the portraits'.

    Returns:
        uint8 [B, 3, H, W].
    """
    person = Person(intensity, accidents)
    canvas = pose(person, *grain.shape[1:])
    length = paint_behind(canvas, person)
    paint_body(canvas, person)
    face = paint_head(canvas, person)
    paint_skin(face, person)
    paint_nose(face, person)
    paint_mouth(face, person)
    paint_beard(face, person)
    paint_eyes(face, person)
    paint_brows(face, person)
    paint_hair(canvas, person, length)
    paint_glasses(face, person)
    paint_hat(canvas, person)
    paint_jewellery(canvas, person)
    paint_light(canvas, person, grain)
    return (canvas.pixels.clamp_(0, 1) * 255).round_().to(torch.uint8).transpose(0, 1)


def pose(person: Person, height: int, width: int) -> Canvas:
    """An empty canvas, its coordinates rotated, moved and scaled with the head."""
    short = min(height, width)
    across = (torch.arange(width) * 2 + 1 - width) / short
    down = (torch.arange(height) * 2 + 1 - height) / short
    tilt = person.chance(-0.1, 0.1)
    scale = person.chance(0.93, 1.07)
    x = (across[None, None, :] - person.chance(-0.05, 0.05)) / scale
    y = (down[None, :, None] - person.chance(-0.05, 0.05)) / scale
    pixels = torch.empty(3, len(scale), height, width)
    return Canvas(pixels, x + tilt * y, y - tilt * x, 2 / short / scale, across, down)


def paint_behind(canvas: Canvas, person: Person) -> Tensor:
    """Background, and the hair behind the head; returns the hair's lower end."""
    x, y = canvas.x, canvas.y
    top, bottom = person.colour(0.15, 0.95), person.colour(0.15, 0.95)
    canvas.pixels.copy_(mix(top, bottom, (y * 0.5 + 0.5).clamp(0, 1)))
    for _ in range(2):  # something out of focus
        spot = blob(x - person.chance(-1, 1), y - person.chance(-1, 1), person.chance(0.3, 0.9), person.chance(0.3, 0.9))
        canvas.paint(spot * 0.7, person.colour())

    long = (1.15 - 1.3 * person.degree("Male") + person.chance(-0.25, 0.25)).clamp(0, 1)
    bald = person.degree("Bald")
    length = mix(torch.tensor(0.0), torch.tensor(0.95), long * (1 - bald))
    sway = person.degree("Wavy_Hair") * 0.05 * wave(y * 1.6)
    width = 0.5 + 0.1 * long + 0.05 * person.degree("Wavy_Hair") + sway
    side = canvas.x.abs() - width + (y - 0.4).clamp(min=0) * 0.12
    behind = torch.maximum(side, (y + 0.25).abs() - (length + 0.25))
    crown = ellipse(x, y + 0.22, 0.57 + 0.03 * long, 0.63 - 0.1 * bald)
    shape = torch.minimum(torch.where(y < -0.2, crown, torch.maximum(behind, -0.2 - y)), crown)
    canvas.paint(canvas.inside(shape) * (1 - bald).clamp(0, 1), person.hair * 0.72)
    return length


def paint_body(canvas: Canvas, person: Person) -> None:
    """Neck, shoulders and clothes, with a necktie on a white collar."""
    part = canvas.window(-2, 0.3, 2, 2)
    x, y = part.x, part.y
    side = x.abs()
    neck = 0.2 + 0.08 * person.degree("Male") + 0.04 * person.degree("Chubby")
    part.paint(part.inside(torch.maximum(side - neck - (y - 0.75).clamp(min=0) * 0.8, 0.2 - y)), person.skin * 0.86)
    clothes = person.colour(0.05, 0.85)
    neckline = person.chance(0.84, 0.95)
    shoulders = neckline + 0.12 * ((side - 0.3).clamp(min=0) * 1.5)
    collar = 0.14 * bow(x, neck + 0.06)
    part.paint(part.inside(shoulders + collar - 0.03 - y), clothes)

    tie = person.presence("Wearing_Necktie")
    suit = torch.maximum(0.8 - y, 0.66 + 0.35 * side - y)
    part.paint(part.inside(suit) * tie, clothes * 0.35)
    shirt = torch.maximum(suit - 0.02, side - 0.3 + (y - 0.72) * 0.35)
    part.paint(part.inside(shirt) * tie, WHITE)
    cloth = torch.stack([person.chance(0.55, 0.9), person.chance(0.0, 0.2), person.chance(0.05, 0.5)])
    knot = torch.maximum((y - 0.8).abs() - 0.07, side - 0.1 + (y - 0.74) * 0.25)
    blade = torch.maximum(0.84 - y, side - 0.05 - (y - 0.84) * 0.3)
    part.paint(part.inside(torch.minimum(knot, blade)) * tie, cloth)
    part.shade(part.inside((y - 0.88).abs() - 0.008) * part.inside(side - 0.07) * tie, -0.35)


def paint_head(canvas: Canvas, person: Person) -> Canvas:
    """Ears, skull and chin; returns the canvas of the features, which turn a little further than the outline."""
    male, chubby, oval = person.degree("Male"), person.degree("Chubby"), person.degree("Oval_Face")
    broad = 0.455 + 0.015 * male + 0.095 * chubby - 0.13 * (oval - 0.5) + person.chance(-0.012, 0.012)
    long = 0.62 + 0.03 * male + 0.13 * (oval - 0.5) + person.chance(-0.015, 0.015)
    square = (0.1 + 0.45 * male + 0.35 * chubby - 0.7 * (oval - 0.5)).clamp(max=0.75)

    part = canvas.window(-0.75, -0.85, 0.75, 0.85)
    x, y = part.x, part.y
    ears = ellipse(x.abs() - broad - 0.01, y + 0.02, 0.075, 0.13)
    part.paint(part.inside(ears), person.skin * 0.85)
    part.shade(blob(x.abs() - broad - 0.02, y + 0.02, 0.05, 0.09), -0.25)

    double = person.degree("Double_Chin")
    under = ellipse(x, y - 0.53, 0.3 + 0.06 * double, 0.12 + 0.12 * double)
    part.paint(part.inside(under) * (double * 1.6 - 0.2).clamp(0, 1), person.skin * 0.93)
    part.shade(part.inside(under.abs() - 0.012, 0.03) * part.inside(0.55 - y) * (double * 1.6 - 0.2).clamp(0, 1), -0.35)

    outline = squircle(x / broad, y / long, torch.where(y > 0, square, torch.zeros(()))) * broad
    shadow = part.inside(outline - 0.05, 0.12) * part.inside(0.25 - y, 0.1) * part.inside(x.abs() - 0.2, 0.1)  # on the neck
    part.shade(shadow, -0.18)
    part.paint(part.inside(outline), person.skin)
    part.shade(part.inside(-outline - 0.05, 0.16) * part.inside(outline), -0.16)  # the round of the head
    turn = person.chance(-0.06, 0.06)
    crooked = (0.75 - person.degree("Attractive")).clamp(min=0) * torch.where(person.chance(-1, 1) < 0, -1.0, 1.0)
    lean = 0.13 * crooked * (canvas.x - turn)
    return Canvas(canvas.pixels, canvas.x - turn, canvas.y + lean, canvas.pixel, canvas.across, canvas.down)


def paint_skin(face: Canvas, person: Person) -> None:
    """Skin: age, cheeks, make-up, blemishes."""
    part = face.window(-0.5, -0.55, 0.5, 0.6)
    x, y = part.x, part.y
    side = x.abs()
    bones = person.degree("High_Cheekbones")
    part.shade(blob(side - 0.28, y - 0.05, 0.16, 0.09), 0.4 * bones)
    hollow = part.inside((y - 0.2 - (0.36 - side) * 0.6).abs() - 0.03, 0.09)
    part.shade(hollow * blob(side - 0.31, y - 0.23, 0.15, 0.17), -0.7 * bones)

    rosy = person.degree("Rosy_Cheeks")
    part.paint(blob(side - 0.28, y - 0.15, 0.2, 0.17) * 0.85 * rosy, person.skin * colour(1.12, 0.42, 0.5))
    part.paint(
        blob(side - 0.33, y - 0.1, 0.16, 0.12) * 0.4 * person.degree("Heavy_Makeup"), person.skin * colour(0.98, 0.55, 0.6)
    )

    old = 1 - person.degree("Young")
    lines = torch.zeros_like(y)
    for height in (-0.43, -0.37, -0.31):  # forehead
        lines = torch.maximum(lines, part.inside((y - height + 0.02 * bow(x, 0.3)).abs() - 0.006, 0.02) * bow(x, 0.28))
    fold = (side - 0.13 - (y - 0.16).clamp(min=0) * 0.35).abs() - 0.01
    lines = torch.maximum(lines, part.inside(fold, 0.025) * bow(y - 0.27, 0.14))
    for slope in (-0.5, 0.0, 0.5):  # crow's feet
        foot = (y + 0.05 - slope * (side - 0.33)).abs() - 0.006
        lines = torch.maximum(lines, part.inside(foot, 0.02) * bow(side - 0.39, 0.05))
    part.shade(lines, -0.6 * (old * 1.4 - 0.2).clamp(0, 1))

    plain = (0.85 - person.degree("Attractive") * 1.2).clamp(0, 1)
    for _ in range(6):
        spot = blob(x - person.chance(-0.33, 0.33), y - person.chance(-0.4, 0.5), 0.045, 0.045)
        part.paint(spot * (0.8 * plain), person.skin * colour(0.75, 0.42, 0.38))


def paint_nose(face: Canvas, person: Person) -> None:
    """Bridge, wings and nostrils; a pointed nose is narrow, long and has an edge."""
    part = face.window(-0.25, -0.2, 0.25, 0.35)
    x, y = part.x, part.y
    big, point = person.degree("Big_Nose"), person.degree("Pointy_Nose")
    half = 0.065 + 0.075 * big - 0.02 * point + person.chance(-0.008, 0.008)
    tip = 0.15 + 0.03 * big + 0.03 * point
    along = ((y + 0.12) / (tip + 0.12)).clamp(0, 1)
    breadth = half * (0.45 + 0.55 * along * along)
    below = part.inside(y - tip)
    above = part.inside(-0.1 - y, 0.1)
    light_side = x + 0.01
    ridge = part.inside((light_side.abs() - 0.02), 0.04) * above * below
    part.shade(ridge, 0.14 + 0.12 * point)
    flank = part.inside((x.abs() - breadth).abs() - 0.012, 0.03) * above * below
    part.shade(flank, -0.12 - 0.2 * big)
    edge = part.inside((x - breadth * 0.7).abs() - 0.012, 0.02) * above * below
    part.shade(edge, -0.55 * (point * 1.5 - 0.5).clamp(0, 1))
    wings = ellipse(x.abs() - half * 0.75, y - tip + 0.025, 0.4 * half + 0.012, 0.035 + 0.02 * big)
    part.shade(part.inside(wings.abs() - 0.008, 0.02) * part.inside(tip - 0.06 - y), -0.35)
    nostrils = ellipse(x.abs() - half * 0.5, y - tip - 0.002, 0.3 * half + 0.004, 0.014 + 0.006 * big)
    part.shade(part.inside(nostrils), -0.65)
    drop = torch.maximum(y - tip - 0.05 + x.abs() * 1.6, tip - y)  # the tip of a pointed one hangs
    part.shade(part.inside(drop, 0.02), -0.4 * (point * 1.5 - 0.5).clamp(0, 1))


def paint_mouth(face: Canvas, person: Person) -> None:
    """Lips: colour, smile, opening."""
    part = face.window(-0.4, 0.12, 0.4, 0.56)
    x, y = part.x, part.y
    smile, big, apart = person.degree("Smiling"), person.degree("Big_Lips"), person.degree("Mouth_Slightly_Open")
    half = 0.15 + 0.065 * smile + person.chance(-0.01, 0.01)
    arch = bow(x, half)
    middle = 0.345 + person.chance(-0.01, 0.01)
    line = middle - 0.03 + (0.125 * smile - 0.04) * (arch - 0.5)
    opening = 0.09 * (apart * 1.3 - 0.3).clamp(0, 1) * arch
    upper = line - opening * 0.35 - (0.024 + 0.056 * big) * arch * (1 - 0.35 * bow(x, 0.05))
    lower = line + opening * 0.65 + (0.030 + 0.080 * big) * arch
    lips = torch.maximum(torch.maximum(upper - y, y - lower), x.abs() - half)
    natural = person.skin * colour(0.85, 0.55, 0.54)
    stick = torch.stack([person.chance(0.72, 0.9), person.chance(0.02, 0.12), person.chance(0.12, 0.3)])
    part.paint(part.inside(lips), mix(natural, stick, person.degree("Wearing_Lipstick")))
    gap = torch.maximum(line - opening * 0.35 - y, y - line - opening * 0.65)
    gap = torch.maximum(gap, x.abs() - half + 0.015)
    part.paint(part.inside(gap) * part.inside(0.004 - opening), colour(0.22, 0.05, 0.06))
    teeth = torch.maximum(gap + 0.006, y - line - opening * 0.2)
    part.paint(part.inside(teeth) * part.inside(0.02 - opening), WHITE)
    seam = (y - line).abs() - 0.006
    part.shade(part.inside(torch.maximum(seam, x.abs() - half)) * part.inside(opening - 0.02), -0.6)
    folds = (x.abs() - half - 0.05 - (y - middle) * 0.2).abs() - 0.008
    part.shade(part.inside(folds, 0.025) * bow(y - 0.29, 0.12), -0.25 * (smile * 1.5 - 0.5).clamp(0, 1))


def paint_beard(face: Canvas, person: Person) -> None:
    """Stubble, sideburns, full beard, goatee and moustache."""
    part = face.window(-0.55, -0.3, 0.55, 0.8)
    x, y = part.x, part.y
    side = x.abs()
    hair = person.hair * 0.7
    thread = 0.85 + 0.15 * wave(x * 11 + y * 3)
    mouth = ellipse(x, y - 0.345, 0.2, 0.075)
    outline = ellipse(x, y, 0.475 + 0.05 * person.degree("Chubby"), 0.66)
    jaw = torch.maximum(outline, 0.24 + 0.1 * bow(x, 0.25) - 0.9 * (side - 0.32).clamp(min=0) - y)
    jaw = torch.maximum(jaw, -mouth)

    stubble = person.presence("5_o_Clock_Shadow")
    lip = torch.maximum(torch.maximum((y - 0.25).abs() - 0.045, side - 0.2), -mouth)
    part.paint(part.inside(torch.minimum(jaw, lip), 0.05) * 0.6 * thread * stubble, colour(0.15, 0.17, 0.21))
    burns = torch.maximum((side - 0.415).abs() - 0.05, (y - 0.02).abs() - 0.25)
    part.paint(part.inside(burns, 0.03) * person.presence("Sideburns"), hair)
    full = (0.5 - person.intensity["No_Beard"]).clamp(0, 1)
    grown = torch.maximum(ellipse(x, y - 0.05, 0.46, 0.66), -mouth)
    grown = torch.maximum(grown, 0.3 - 1.1 * (side - 0.26).clamp(min=0) - y)
    part.paint(part.inside(grown, 0.04) * thread * full, hair)
    goatee = torch.maximum(ellipse(x, y - 0.53, 0.15, 0.15), -ellipse(x, y - 0.345, 0.2, 0.085))
    part.paint(part.inside(goatee, 0.03) * thread * person.presence("Goatee"), hair * 0.85)
    droop = y - 0.255 - 0.35 * (side - 0.08).clamp(min=0)
    moustache = torch.maximum(droop.abs() - 0.035, side - 0.21)
    part.paint(part.inside(moustache) * thread * person.presence("Mustache"), hair * 0.85)


def paint_eyes(face: Canvas, person: Person) -> None:
    """Lids, irises, make-up, and bags."""
    part = face.window(-0.4, -0.25, 0.4, 0.12)
    y = part.y + 0.06
    apart = 0.205 + person.chance(-0.01, 0.01)
    x = part.x.abs() - apart
    narrow, makeup = person.degree("Narrow_Eyes"), person.degree("Heavy_Makeup")
    large = 1 + 0.35 * (person.degree("Attractive") - 0.5)
    half, height = 0.105 * large, (0.066 - 0.05 * narrow) * large
    lid = bow(x, half)

    shadow = torch.stack([person.chance(0.3, 0.6), person.chance(0.1, 0.3), person.chance(0.4, 0.7)])
    part.paint(blob(x, y + 0.06, 0.16, 0.1) * makeup, shadow)
    bags = person.degree("Bags_Under_Eyes")
    crescent = (y - 0.085 - 0.03 * lid).abs() - 0.012
    part.shade(blob(x, y - 0.09, 0.14, 0.065), -0.35 * bags)
    part.shade(part.inside(crescent, 0.03) * bow(x, 0.13), -0.55 * bags)

    ball = torch.maximum(y.abs() - height * lid, x.abs() - half)
    seen = part.inside(ball)
    part.paint(seen, WHITE * 0.95)
    iris = torch.stack([person.chance(0.12, 0.4), person.chance(0.2, 0.5), person.chance(0.15, 0.65)])
    gaze = person.chance(-0.02, 0.02)
    centre = part.x - torch.where(part.x < 0, -apart, apart) - gaze
    part.paint(seen * part.inside(ellipse(centre, y, 0.048, 0.048)), iris)
    part.paint(seen * part.inside(ellipse(centre, y, 0.023, 0.023)), BLACK)
    lash = (y + height * lid).abs() - (0.006 + 0.014 * makeup)
    part.paint(part.inside(torch.maximum(lash, x.abs() - half - 0.02 * makeup)) * (0.55 + 0.45 * makeup), BLACK)
    under = (y - height * lid).abs() - 0.006
    part.paint(part.inside(torch.maximum(under, x.abs() - half)) * (0.2 + 0.6 * makeup), BLACK)


def paint_brows(face: Canvas, person: Person) -> None:
    """Brows: bushy ones are thick and dark, arched ones rise and fall."""
    part = face.window(-0.42, -0.38, 0.42, -0.08)
    x = part.x.abs() - 0.21
    y = part.y + 0.185 + person.chance(-0.01, 0.01)
    arched, bushy = person.degree("Arched_Eyebrows"), person.degree("Bushy_Eyebrows")
    curve = -0.11 * arched * bow(x - 0.03, 0.15) - 0.01 * bow(x, 0.2) + 0.02 * arched
    thick = (0.016 + 0.03 * bushy + 0.006 * person.degree("Male")) * (0.45 + 0.55 * bow(x, 0.19))
    brow = torch.maximum((y - curve).abs() - thick, x.abs() - 0.135)
    part.paint(part.inside(brow, 0.02) * (0.6 + 0.4 * bushy), person.hair * 0.5)


def paint_hair(canvas: Canvas, person: Person, length: Tensor) -> None:
    """The hair in front: hairline, strands, fringe."""
    part = canvas.window(-0.8, -1, 0.8, 1)
    x, y = part.x, part.y
    side = x.abs()
    bald, receding = person.degree("Bald"), person.degree("Receding_Hairline")
    wavy, straight = person.degree("Wavy_Hair"), person.degree("Straight_Hair")

    curls = wave(y * 3.2 + 0.12 * wave(x * 2.5)) * wavy
    strands = wave(x * (7 + 4 * straight) + curls * 0.7)
    tone = 1 + (0.12 + 0.2 * straight) * strands * (1 - 0.5 * wavy) + 0.3 * curls
    gloss = 1 + 0.8 * straight * blob(x, y + 0.62 - 0.25 * x * x, 0.6, 0.07)
    painted = person.hair * (tone * gloss)

    edge = ellipse(x, y + 0.16 + 0.015 * curls, 0.53 + 0.03 * wavy + 0.02 * curls, 0.64 + 0.02 * wavy)
    temples = bow(side - 0.24, 0.17)
    hairline = -0.47 - 0.1 * receding - 0.17 * receding * temples + (0.9 - 0.25 * receding) * side * side
    hairline = hairline + 0.02 * wave(x * 5) * (1 - straight) - 0.36 * (bald * 1.3 - 0.3).clamp(0, 1)
    top = torch.maximum(edge, y - hairline.clamp(max=0.05))
    keep = (1.6 - 2 * bald).clamp(0, 1)
    part.paint(part.inside(top) * keep, painted)
    ring = torch.maximum((side - 0.475).abs() - 0.035, (y + 0.08).abs() - 0.16)
    part.paint(part.inside(ring, 0.03) * bald, person.hair * 0.85)

    long = torch.maximum((side - 0.49 - 0.03 * curls).abs() - 0.07 - 0.02 * wavy, torch.maximum(-0.2 - y, y - length))
    part.paint(part.inside(long) * (1 - bald), painted)
    bangs = person.presence("Bangs")
    fringe = torch.maximum(ellipse(x, y + 0.16, 0.5, 0.63), y + 0.2 + 0.035 * wave(x * 6) - 0.25 * side * side)
    part.paint(part.inside(fringe) * bangs, painted * 0.93)


def paint_glasses(face: Canvas, person: Person) -> None:
    """Rims, bridge and temples, and a gleam on the lenses."""
    part = face.window(-0.6, -0.25, 0.6, 0.15)
    y = part.y + 0.05
    x = part.x.abs() - 0.21
    worn = person.presence("Eyeglasses")
    frame = torch.stack([person.chance(0.02, 0.35)] * 3) * colour(1.0, 0.8, 0.7)
    lens = squircle(x / 0.165, y / 0.125, torch.tensor(0.35)) * 0.13
    part.shade(part.inside(lens) * worn, -0.1)
    part.paint(part.inside(((x + y * 0.8).abs() - 0.02), 0.03) * part.inside(lens) * 0.3 * worn, WHITE)
    bridge = torch.maximum((y + 0.02).abs() - 0.014, part.x.abs() - 0.06)
    temple = torch.maximum((y + 0.03).abs() - 0.014, (part.x.abs() - 0.44).abs() - 0.075)
    part.paint(part.inside(torch.minimum(lens.abs() - 0.018, torch.minimum(bridge, temple))) * worn, frame)


def paint_hat(canvas: Canvas, person: Person) -> None:
    """A hat with a band and a brim."""
    part = canvas.window(-0.95, -1.3, 0.95, -0.2)
    x, y = part.x, part.y
    worn = person.presence("Wearing_Hat")
    cloth = person.colour(0.1, 0.9)
    crown = torch.maximum(ellipse(x, y + 0.42, 0.57, 0.53), y + 0.38)
    part.paint(part.inside(crown) * worn, cloth)
    part.shade(part.inside(crown) * worn * (x + 0.1), -0.5)
    band = torch.maximum(crown, -0.52 - y)
    part.paint(part.inside(band) * worn, cloth * 0.35)
    brim = ellipse(x, y + 0.38 - 0.12 * x * x, person.chance(0.66, 0.85), 0.075)
    part.paint(part.inside(brim) * worn, cloth * 0.75)
    part.shade(blob(x, y + 0.27, 0.5, 0.08) * worn, -0.35)


def paint_jewellery(canvas: Canvas, person: Person) -> None:
    """Earrings that hang below the ears, and a necklace of beads."""
    metal = mix(GOLD, WHITE, person.chance())
    part = canvas.window(-0.65, 0.05, 0.65, 0.42)
    x, y = part.x.abs() - 0.5, part.y
    worn = person.presence("Wearing_Earrings")
    drop = torch.minimum(ellipse(x, y - 0.27, 0.045, 0.06), torch.maximum(x.abs() - 0.012, (y - 0.17).abs() - 0.06))
    part.paint(part.inside(drop) * worn, metal)
    part.shade(blob(x + 0.012, y - 0.255, 0.02, 0.03) * worn, 0.4)

    part = canvas.window(-0.4, 0.6, 0.4, 1.0)
    x, y = part.x, part.y
    worn = person.presence("Wearing_Necklace")
    chain = (y - 0.7 - 0.13 * bow(x, 0.36)).abs() - 0.02 - 0.008 * wave(x * 10)
    part.paint(part.inside(torch.maximum(chain, x.abs() - 0.32)) * worn, metal)
    part.paint(part.inside(ellipse(x, y - 0.875, 0.05, 0.055)) * worn, metal * colour(0.6, 0.9, 1.0))


def paint_light(canvas: Canvas, person: Person, grain: Tensor) -> None:
    """Direction and colour of the light, sharpness and noise of the camera."""
    canvas.pixels *= 1 + person.chance(-0.22, 0.22) * canvas.x + person.chance(-0.15, 0.1) * canvas.y
    canvas.pixels *= person.chance(0.78, 1.12) * person.colour(0.93, 1.07)
    contrast = person.chance(0.85, 1.15)
    canvas.pixels -= 0.5
    canvas.pixels *= contrast
    canvas.pixels += 0.5
    soft = person.degree("Blurry").flatten()
    rows = (soft > 0).nonzero().flatten()
    if len(rows):
        sharp = canvas.pixels[:, rows]
        canvas.pixels[:, rows] = mix(sharp, blur(sharp), soft[rows, None, None].clamp(max=0.95))
    canvas.pixels += (grain - 0.5) * person.chance(0.01, 0.07)


def blur(pixels: Tensor) -> Tensor:
    """Smooth [..., H, W] until details of a twentieth of the shorter side are gone: ever wider steps of 1, 2, 1."""
    step, last = 1, max(2, min(pixels.shape[-2:]) // 24)
    while step <= last:
        for axis in (-1, -2):
            size = pixels.shape[axis]
            at = torch.arange(size)
            before = pixels.index_select(axis % pixels.ndim, (at - step).clamp(min=0))
            after = pixels.index_select(axis % pixels.ndim, (at + step).clamp(max=size - 1))
            pixels = (before + after) * 0.25 + pixels * 0.5
        step = step * 2 if step * 2 <= last or step == last else last
    return pixels
