"""The default network (`jaxhand/models/voting_net.py`) and its loss in PyTorch, written as a PyTorch user would."""

import torch
import torch.nn.functional as F
from torch import nn

from jaxhand.config import LossConfig, ModelConfig
from jaxhand.hand.camera import DEPTH_RANGE_MM
from jaxhand.models.layers import NUM_KEYPOINTS
from jaxhand.models.preprocess import CROP_MM, RELATIVE_DEPTH_GAIN
from jaxhand.models.voting_net import PATCH, WINDOW, WINDOW_FEATURES


class Block(nn.Module):
    """Residual MLP over the channels; with `shifted`, four fifths of the channels come from the neighbour cells."""

    def __init__(self, width: int, hidden: int, shifted: bool):
        super().__init__()
        self.norm, self.shifted = nn.RMSNorm(width, eps=1e-6), shifted
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x):
        """(B, h, w, C) or (B, T, C) → the same."""
        h = self.norm(x)
        return x + self.down(F.relu(self.up(shift(h) if self.shifted else h)))


class TokenMixer(nn.Module):
    """Residual linear layer over the tokens."""

    def __init__(self, tokens: int, width: int):
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.mix = nn.Parameter(torch.randn(tokens, tokens) * 0.3 * tokens**-0.5)

    def forward(self, x):
        """(B, …, C) → the same."""
        tokens = self.norm(x).flatten(1, -2)  # (B, T, C)
        return x + (self.mix.T @ tokens).reshape(x.shape)


class TokenMlp(nn.Module):
    """Residual MLP over the joints."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.up = nn.Parameter(torch.randn(NUM_KEYPOINTS, 2 * NUM_KEYPOINTS) * NUM_KEYPOINTS**-0.5)
        self.down = nn.Parameter(torch.randn(2 * NUM_KEYPOINTS, NUM_KEYPOINTS) * 0.3 * (2 * NUM_KEYPOINTS) ** -0.5)

    def forward(self, x):
        """(B, 21, c) → the same."""
        return x + self.down.T @ F.relu(self.up.T @ self.norm(x))


class RefinementStage(nn.Module):
    """Correct every joint from the image window around it and from the features of all joints."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        width = config.joint_width
        self.placed, self.seek = nn.Linear(3, width), nn.Linear(width, WINDOW_FEATURES)
        self.see, self.tell = nn.Linear(4 * WINDOW**2 + 2, WINDOW_FEATURES), nn.Linear(WINDOW_FEATURES, width)
        self.mixers = nn.ModuleList(TokenMlp(width) for _ in range(config.joint_blocks))
        self.blocks = nn.ModuleList(Block(width, 2 * width, False) for _ in range(config.joint_blocks))
        self.norm, self.correction = nn.RMSNorm(width, eps=1e-6), nn.Linear(width, 3)

    def forward(self, tokens, joints, image, has_depth):
        """Tokens (B, 21, c) and joints (B, 21, 3) → the same."""
        tokens = tokens + self.placed(joints)
        seen = self.see(windows(image, joints.detach(), has_depth)) + self.seek(tokens)
        tokens = tokens + self.tell(F.relu(seen))
        for mixer, block in zip(self.mixers, self.blocks):
            tokens = block(mixer(tokens))
        return tokens, joints + self.correction(self.norm(tokens))


class Dense(nn.Module):
    """Batch → joints, intermediate predictions, and the distance estimated without depth."""

    def __init__(self, config: ModelConfig, image_size: int):
        super().__init__()
        self.image_size, width, fine = image_size, config.width, config.width // 2
        joint, cells = config.joint_width, (image_size // (2 * PATCH)) ** 2
        self.stem, self.down = nn.Linear(4 * PATCH**2, fine), nn.Linear(4 * fine, width)
        self.fine = nn.ModuleList(Block(fine, config.expansion * fine, True) for _ in range(config.fine_blocks))
        self.mixers = nn.ModuleList(TokenMixer(cells, width) for _ in range(config.blocks))
        self.coarse = nn.ModuleList(Block(width, config.expansion * width, True) for _ in range(config.blocks))
        self.norm, self.votes = nn.RMSNorm(width, eps=1e-6), nn.Linear(width, 4 * NUM_KEYPOINTS)
        self.seen = nn.Linear(width, joint)
        self.names = nn.Parameter(0.5 * torch.randn(NUM_KEYPOINTS, joint))
        self.looks = nn.ModuleList(RefinementStage(config) for _ in range(config.looks))
        self.size_norm, self.size = nn.RMSNorm(joint, eps=1e-6), nn.Linear(joint, 1)

    def forward(self, batch: dict) -> dict:
        """The predictions of `jaxhand.models.voting_net.VotingNet`."""
        B, grid, cell = len(batch["image"]), self.image_size // (2 * PATCH), 2 * PATCH
        image = torch.cat([batch["image"] * 2 - 1, batch["depth"][..., None]], -1)
        x = self.stem(patches(image, PATCH))
        for block in self.fine:
            x = block(x)
        x = self.down(patches(x, 2))
        for mixer, block in zip(self.mixers, self.coarse):
            x = block(mixer(x))
        x = self.norm(x).flatten(1, 2)  # (B, T, C)

        logits, dx, dy, dz = self.votes(x).reshape(B, -1, 4, NUM_KEYPOINTS).unbind(2)
        weight = logits.softmax(1)
        middle = (torch.arange(grid) + 0.5) * 2 / grid - 1
        cell_y, cell_x = (m.reshape(-1, 1) for m in torch.meshgrid(middle, middle, indexing="ij"))
        measured = batch["depth"].reshape(B, grid, cell, grid, cell).mean((2, 4)).reshape(B, -1, 1)
        places = (cell_x + dx, cell_y + dy, measured + dz)
        joints = torch.stack([(weight * place).sum(1) for place in places], -1)  # (B, 21, 3)

        tokens, guesses = self.seen(weight.mT @ x) + self.names, [joints]
        for look in self.looks:
            tokens, joints = look(tokens, joints, image, batch["has_depth"])
            guesses.append(joints)
        side_mm = CROP_MM * self.size(self.size_norm(tokens).mean(1))[:, 0].exp()
        by_size = batch["K"][:, 0, 0] * side_mm / self.image_size
        distance = torch.where(batch["has_depth"] > 0, batch["depth_center"], by_size)
        lifted = [self.lift(guess, distance, batch["K"]) for guess in guesses]
        return {"lifted": lifted, "root_depth": by_size}

    def lift(self, joints, distance, K):
        """Joints in [-1, 1] around the crop → (B, 21, 3) mm and (B, 21, 2) px."""
        pixels = (joints[..., :2] + 1) * (self.image_size / 2) - 0.5
        z = (distance[:, None] + joints[..., 2] * DEPTH_RANGE_MM).clamp(min=1)
        rays = torch.linalg.solve(K[:, None, :2, :2], (pixels - K[:, None, :2, 2])[..., None])[..., 0]
        return torch.cat([rays * z[..., None], z[..., None]], -1), pixels


def loss(predictions: dict, batch: dict, weights: LossConfig):
    """The weighted sum of `jaxhand.training.losses`, the mean over a batch whose joints are all valid."""
    true, side = batch["keypoints_3d"], batch["image"].shape[1] / 2

    def joint_terms(points, pixels):
        error = (points - points[:, :1]) - (true - true[:, :1])
        depth, true_depth = points[..., 2], true[..., 2]
        depth_error = (depth - depth.mean(1, keepdim=True)) - (true_depth - true_depth.mean(1, keepdim=True))
        joints_3d = (error.square().sum(-1) + 1e-12).sqrt().mean() / 100
        joints_2d = (pixels - batch["keypoints_2d"]).abs().mean() / side
        return joints_3d, joints_2d, depth_error.abs().mean() / 100

    *guesses, final = (joint_terms(*lifted) for lifted in predictions["lifted"])
    total = weights.joints_3d * final[0] + weights.joints_2d * final[1] + weights.depth * final[2]
    true_depth = true[..., 2].mean(1)
    distance = ((predictions["lifted"][-1][0][..., 2].mean(1) - true_depth).abs() / 100 * batch["has_depth"]).mean()
    size = (predictions["root_depth"] / true_depth).log().abs().mean()
    return total + weights.guesses * sum(map(sum, guesses)) + weights.distance * distance + weights.size * size


def windows(image, joints, has_depth):
    """Cut windows around the joints: (B, h, w, 4), (B, 21, 3) → (B, 21, 4 * WINDOW^2 + 2)."""
    B, side, margin = len(image), image.shape[1], WINDOW // 2
    place = (joints[..., :2] + 1) * (side / 2)
    corner = place.round().clamp(0, side).long()
    padded = F.pad(image, (0, 0, margin, margin, margin, margin))
    offset = torch.arange(WINDOW)
    rows = corner[..., 1, None, None] + offset[:, None]  # (B, 21, WINDOW, 1)
    columns = corner[..., 0, None, None] + offset  # (B, 21, 1, WINDOW)
    window = padded[torch.arange(B)[:, None, None, None], rows, columns]  # (B, 21, WINDOW, WINDOW, 4)
    depth = ((window[..., 3] - joints[..., 2, None, None]) * RELATIVE_DEPTH_GAIN).clamp(-1, 1) * has_depth[
        :, None, None, None
    ]
    parts = (window[..., :3].reshape(B, NUM_KEYPOINTS, -1), depth.reshape(B, NUM_KEYPOINTS, -1), place - corner)
    return torch.cat(parts, -1)


def patches(x, side: int):
    """(B, h, w, C) → (B, h/side, w/side, side*side*C)."""
    B, h, w, C = x.shape
    x = x.reshape(B, h // side, side, w // side, side, C).transpose(2, 3)
    return x.reshape(B, h // side, w // side, side * side * C)


def shift(x):
    """Move four fifths of the channels of (B, h, w, C) by one cell, a fifth in each direction."""
    C, h, w = x.shape[-1], *x.shape[1:3]
    padded = F.pad(x, (0, 0, 1, 1, 1, 1))
    corners = ((1, 1), (2, 1), (0, 1), (1, 2), (1, 0))
    parts = [padded[:, i : i + h, j : j + w, C * k // 5 : C * (k + 1) // 5] for k, (i, j) in enumerate(corners)]
    return torch.cat(parts, -1)
