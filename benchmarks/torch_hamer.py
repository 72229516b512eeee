"""HaMeR (`jaxhand/models/hamer.py`) in PyTorch, written as a PyTorch user would, with HaMeR's names of the weights."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from jaxhand.config import Config
from jaxhand.hand.skinned import PARENTS, SkinnedHand
from jaxhand.models.vit import resolve_size

TOKENS = (16, 12)


class Hamer(nn.Module):
    """Normalised crops (B, 3, 256, 256) → vertices (B, V, 3) mm relative to the hand's origin, shape, camera.

    Args:
        config: `model.vit` and `model.hamer`.
        hand: the hand of the mesh.
    """

    def __init__(self, config: Config, hand: SkinnedHand):
        super().__init__()
        vit = resolve_size(config.model.vit)
        self.backbone = ViT(vit.width, vit.depth, vit.heads, vit.mlp_ratio)
        self.mano_head = Head(config.model.hamer, vit.width)
        self.mano = Mano(hand)

    def forward(self, image):
        """Shapes as in the class docstring."""
        pose, shape, camera = self.mano_head(self.backbone(image[:, :, :, 32:-32]))
        with torch.autocast(image.device.type, enabled=False):
            return self.mano(rotations(pose.float().reshape(-1, 16, 6)), shape.float()), shape, camera


class ViT(nn.Module):
    """(B, 3, 256, 192) → (B, 192, E)."""

    def __init__(self, width: int, depth: int, heads: int, mlp_ratio: float):
        super().__init__()
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + TOKENS[0] * TOKENS[1], width) * 0.02)
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, width, 16, 16, padding=2)
        self.blocks = nn.ModuleList(Block(width, heads, int(mlp_ratio * width)) for _ in range(depth))
        self.last_norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, image):
        """Shapes as in the class docstring."""
        x = self.patch_embed.proj(image).flatten(2).mT
        x = x + self.pos_embed[:, 1:] + self.pos_embed[:, :1]
        for block in self.blocks:
            x = block(x)
        return self.last_norm(x)


class Block(nn.Module):
    """Attention and MLP, each after a layer norm."""

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp = Attention(width, heads), nn.Module()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x):
        """(B, T, E) → the same."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm2(x))))


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        """(B, T, E) → the same."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, heads, T, hd) each
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Head(nn.Module):
    """(B, T, E) → 6D rotations (B, 96), shape (B, 10), camera (B, 3)."""

    def __init__(self, config, context: int):
        super().__init__()
        self.transformer = nn.Module()
        self.transformer.to_token_embedding = nn.Linear(1, config.width)
        self.transformer.pos_embedding = nn.Parameter(torch.randn(1, 1, config.width))
        self.transformer.transformer = nn.Module()
        layers = (nn.ModuleList(_layer(config, context)) for _ in range(config.depth))
        self.transformer.transformer.layers = nn.ModuleList(layers)
        for name, numbers in (("pose", 96), ("shape", 10), ("cam", 3)):
            self.add_module(f"dec{name}", nn.Linear(config.width, numbers))
            init = {"pose": "init_hand_pose", "shape": "init_betas", "cam": "init_cam"}[name]
            self.register_buffer(init, torch.randn(1, numbers))

    def forward(self, context):
        """Shapes as in the class docstring."""
        transformer = self.transformer
        token = transformer.to_token_embedding(context.new_zeros(len(context), 1, 1)) + transformer.pos_embedding
        for attend, look, think in transformer.transformer.layers:
            token = token + attend(token)
            token = token + look(token, context)
            token = token + think(token)
        token = token[:, 0]
        numbers = self.decpose(token), self.decshape(token), self.deccam(token)
        return tuple(map(torch.add, numbers, (self.init_hand_pose, self.init_betas, self.init_cam)))


def _layer(config, context: int):
    inner = config.heads * config.head_width
    parts = (
        SelfAttention(config.width, inner, config.heads),
        CrossAttention(config.width, inner, config.heads, context),
        FeedForward(config.width, config.mlp),
    )
    return (PreNorm(config.width, part) for part in parts)


class FeedForward(nn.Module):
    """Two layers; HaMeR's third is dropout of 0."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Identity(), nn.Linear(hidden, width))

    def forward(self, x):
        """(B, 1, width) → the same."""
        return self.net(x)


class PreNorm(nn.Module):
    """A module that applies a layer norm to its first argument."""

    def __init__(self, width: int, fn: nn.Module):
        super().__init__()
        self.norm, self.fn = nn.LayerNorm(width), fn

    def forward(self, x, *others):
        """(B, 1, width) → the same."""
        return self.fn(self.norm(x), *others)


class SelfAttention(nn.Module):
    """Self-attention of the token."""

    def __init__(self, width: int, inner: int, heads: int):
        super().__init__()
        self.heads, self.to_qkv = heads, nn.Linear(width, 3 * inner, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner, width))

    def forward(self, x):
        """(B, 1, width) → the same."""
        q, k, v = (_heads(part, self.heads) for part in self.to_qkv(x).chunk(3, -1))
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Cross-attention from the token to the image."""

    def __init__(self, width: int, inner: int, heads: int, context: int):
        super().__init__()
        self.heads, self.to_kv = heads, nn.Linear(context, 2 * inner, bias=False)
        self.to_q, self.to_out = nn.Linear(width, inner, bias=False), nn.Sequential(nn.Linear(inner, width))

    def forward(self, x, context):
        """(B, 1, width), (B, T, E) → (B, 1, width)."""
        q, k, v = (_heads(part, self.heads) for part in (self.to_q(x), *self.to_kv(context).chunk(2, -1)))
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def _heads(x, heads: int):
    return x.unflatten(2, (heads, -1)).transpose(1, 2)  # (B, heads, T, hd)


class Mano(nn.Module):
    """Linear blend skinning with the arrays of a `SkinnedHand`, in the steps of smplx."""

    def __init__(self, hand: SkinnedHand):
        super().__init__()
        self.scale_per_beta, self.vertices = hand.global_scale_per_beta, hand.num_vertices
        for name in ("template", "shape_dirs", "pose_dirs", "weights"):
            self.register_buffer(name, torch.from_numpy(np.array(getattr(hand, name))).float(), persistent=False)

    def forward(self, turns, shape):
        """(B, 16, 3, 3), (B, 10) → (B, V, 3) mm."""
        rest = self.template + torch.einsum("bl,pcl->bpc", shape, self.shape_dirs)
        features = (turns[:, 1:] - torch.eye(3, device=turns.device)).flatten(1)
        rest = rest + torch.einsum("bl,pcl->bpc", features, self.pose_dirs)
        rest = rest * (1 + self.scale_per_beta * shape[:, :1, None])
        joints = rest[:, -16:]
        placed = [transform(turns[:, 0], joints[:, 0])]
        for joint, parent in list(enumerate(PARENTS))[1:]:
            placed.append(placed[parent] @ transform(turns[:, joint], joints[:, joint] - joints[:, parent]))
        placed = torch.stack(placed, 1)  # (B, 16, 4, 4)
        moved = F.pad(joints, (0, 1))[..., None]
        placed = placed - F.pad(placed @ moved, (3, 0))
        maps = (self.weights[: self.vertices] @ placed.flatten(2)).unflatten(2, (4, 4))  # (B, V, 4, 4)
        return (maps @ F.pad(rest[:, : self.vertices], (0, 1), value=1)[..., None])[:, :, :3, 0]


def transform(turn, move):
    """(B, 3, 3), (B, 3) → (B, 4, 4)."""
    return F.pad(torch.cat([turn, move[..., None]], -1), (0, 0, 0, 1)) + turn.new_tensor([0.0, 0, 0, 1]).diag()


def rotations(numbers):
    """(B, 16, 6) → (B, 16, 3, 3)."""
    a, b = numbers[..., :3], numbers[..., 3:]
    a = F.normalize(a, dim=-1)
    b = F.normalize(b - (a * b).sum(-1, keepdim=True) * a, dim=-1)
    return torch.stack([a, b, torch.linalg.cross(a, b)], -1)
