#!/usr/bin/env python3
"""Trains the demo model: the Stable Diffusion 1.x architecture, small, on drawn scenes.

    python tools/train_demo.py --work /tmp/demo --export examples/assets/demo

A pool of scenes is drawn (tools/scenes.py); then an autoencoder is trained on it, a UNet with
its text encoder on the latents, and last the decoder once more. Each training has a budget
in minutes, saves checkpoints to --work, and goes on from the last one when the script is
started again; Ctrl-C saves before it stops. The learning rate falls to zero over
the budget, so give the budget that you mean to wait for.

Two CPU cores with bf16 (Zen 4) need about 40 minutes for each of the first two.
"""

from __future__ import annotations

import argparse
import copy
import math
import signal
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed
import torch.multiprocessing
from demo_model import build_text_encoder, build_tokenizer, build_unet, build_vae, export, make_scheduler, tokenize
from scene_captions import all_words, caption
from scenes import Scene, draw, object_mask, random_scene
from torch.nn import functional

CROP = 64


@dataclass
class Settings:
    """What every stage needs to know."""

    work: Path
    device: torch.device
    half: bool
    compile: bool
    wall: bool
    crops: int
    save_minutes: float
    rank: int  # which of the processes that share the work, and how many they are
    processes: int

    def autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.half)

    @property
    def layout(self) -> torch.memory_format:
        # Without compilation the group norms of channels-last tensors are slow on a CPU.
        fast = self.compile or self.device.type != "cpu"
        return torch.channels_last if fast else torch.contiguous_format

    def clock(self) -> float:
        """Seconds of computing (on a busy CPU, waiting for other programs does not count),
        or of wall time."""
        if self.wall or self.device.type != "cpu":
            return time.time()
        return time.process_time() / torch.get_num_threads()

    def share(self, gradients: list[torch.Tensor], seconds: float) -> float:
        """Averages gradients, in place, and seconds over the processes."""
        if self.processes == 1:
            return seconds
        flat = torch.cat([*(g.flatten() for g in gradients), torch.tensor([seconds], device=self.device)])
        torch.distributed.all_reduce(flat)
        flat /= self.processes
        for gradient, mean in zip(gradients, flat[:-1].split([g.numel() for g in gradients])):
            gradient.copy_(mean.view_as(gradient))
        return flat[-1].item()

    def wait(self) -> None:
        if self.processes > 1:
            torch.distributed.barrier()

    def random(self) -> np.random.Generator:
        """A generator that differs between processes and runs; seeds torch's too."""
        seed = time.time_ns() // 1000 * self.processes + self.rank
        torch.manual_seed(seed)
        return np.random.default_rng(seed)

    def compiled(self, function: Callable) -> Callable:
        return torch.compile(function, dynamic=False) if self.compile else function


# --- the pool ----------------------------------------------------------------------


def pool_scenes(count: int, seed: int = 1) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [random_scene(rng) for _ in range(count)]


def draw_one(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    return draw(scene), (object_mask(scene) * 255).astype(np.uint8)


def load_pool(work: Path, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures [count, 3, 128, 128] and object masks [count, 1, 128, 128], u8; drawn once."""
    path = work / f"pool-{count}.npz"
    if not path.exists():
        print(f"drawing {count} scenes", flush=True)
        with ProcessPoolExecutor() as workers:
            drawn = list(workers.map(draw_one, pool_scenes(count), chunksize=64))
        pictures, masks = (np.stack(part) for part in zip(*drawn))
        np.savez(path, pictures=pictures, masks=masks)
    pool = np.load(path)
    pictures = torch.from_numpy(pool["pictures"]).permute(0, 3, 1, 2).contiguous()
    return pictures, torch.from_numpy(pool["masks"])[:, None]


# --- a budgeted, resumable loop ----------------------------------------------------


def train(
    name: str,
    settings: Settings,
    minutes: float,
    modules: dict[str, torch.nn.Module],
    peak_rate: float,
    step: Callable[[int, float], tuple[torch.Tensor, dict[str, float]]],
    averages: dict[str, torch.nn.Module] | None = None,
    on_save: Callable[[], None] | None = None,
) -> None:
    """Runs `step(index, progress)` until the budget is spent; it returns loss and numbers to print.

    Progress is the share of the budget that has been spent in training, so the schedule
    fits a slow machine, and is not cut short on a busy one. `averages` follow `modules` as exponential averages.
    """
    path = settings.work / f"{name}.pt"
    parameters = [p for module in modules.values() for p in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=peak_rate, betas=(0.9, 0.99), weight_decay=1e-3)
    index, spent = 0, 0.0
    if path.exists():
        state = torch.load(path, map_location=settings.device, weights_only=True)
        index, spent = state["index"], state["spent"]
        optimizer.load_state_dict(state["optimizer"])
        for key, module in {**modules, **{f"average {k}": m for k, m in (averages or {}).items()}}.items():
            module.load_state_dict(state[key])
        print(f"{name}: going on at step {index} after {spent / 60:.1f} minutes", flush=True)

    def save() -> None:
        if settings.rank > 0:
            return
        kept = {**modules, **{f"average {k}": m for k, m in (averages or {}).items()}}
        state = {key: module.state_dict() for key, module in kept.items()}
        state |= {"index": index, "spent": spent, "optimizer": optimizer.state_dict()}
        torch.save(state, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").rename(path)

    budget, saved_at, shown, total = minutes * 60, spent, time.time(), {}
    try:
        while spent < budget:
            started = settings.clock()
            progress = min(spent / budget, 1.0)
            warm = min(1.0, (index + 1) / 100)
            for group in optimizer.param_groups:
                group["lr"] = peak_rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
            loss, numbers = step(index, progress)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            spent += settings.share([p.grad for p in parameters if p.grad is not None], settings.clock() - started)
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            index += 1
            for key, average in (averages or {}).items():
                follow(average, modules[key], min(0.998, (index + 1) / (index + 10)))
            for key, value in numbers.items():
                total[key] = total.get(key, 0.0) + value
            total["steps"] = total.get("steps", 0) + 1
            if settings.rank == 0 and time.time() - shown > 20:
                count = total.pop("steps")
                means = "  ".join(f"{key} {value / count:.4f}" for key, value in total.items())
                pace = (time.time() - shown) / count
                left = (budget - spent) / 60
                print(f"{name}: step {index}  {means}  {pace:.2f} s/step  {left:.1f} min left", flush=True)
                shown, total = time.time(), {}
            if spent - saved_at > settings.save_minutes * 60:
                save()
                saved_at = spent
                if on_save and settings.rank == 0:
                    on_save()
    except KeyboardInterrupt:
        save()
        raise SystemExit(f"{name}: stopped at step {index}") from None
    if saved_at < spent:
        save()
    settings.wait()


@torch.no_grad()
def follow(average: torch.nn.Module, module: torch.nn.Module, decay: float) -> None:
    torch._foreach_lerp_(list(average.parameters()), list(module.parameters()), 1 - decay)


# --- the autoencoder ---------------------------------------------------------------


def crops(rng: np.random.Generator, masks: torch.Tensor, chosen: np.ndarray) -> list[tuple[int, int, int]]:
    """Picture, top and left of a crop of each chosen picture, on the grid of the latents;
    two of three are centred near an object's pixel."""
    corners = []
    for picture in chosen:
        y, x = rng.integers(0, 128 - CROP + 1, 2)
        if rng.random() < 0.66:
            inside = torch.nonzero(masks[picture, 0, ::4, ::4] > 128)
            if len(inside):
                centre = inside[rng.integers(len(inside))] * 4
                y, x = (int(np.clip(c - CROP // 2 + rng.integers(-16, 17), 0, 128 - CROP)) for c in centre.tolist())
        corners.append((int(picture), int(y) // 8 * 8, int(x) // 8 * 8))
    return corners


def picture_loss(y: torch.Tensor, x: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
    """L1 of pixels and of differences between neighbours (edges); objects count three times."""
    weight = 1 + 2 * mask
    flat = ((y - x).abs() * weight).mean()
    across = ((y.diff(dim=-1) - x.diff(dim=-1)).abs() * weight[..., 1:]).mean()
    down = ((y.diff(dim=-2) - x.diff(dim=-2)).abs() * weight[..., 1:, :]).mean()
    difference = (y.detach() - x).abs()
    on_object = (difference * mask).sum() / (3 * mask.sum() + 1)
    return flat + across + down, {"error": difference.mean().item(), "on object": on_object.item()}


def train_vae(settings: Settings, pictures: torch.Tensor, masks: torch.Tensor, minutes: float) -> torch.nn.Module:
    torch.manual_seed(0)  # every process starts from the same weights
    vae = build_vae().to(settings.device, memory_format=settings.layout)
    rng = settings.random()

    def batch(progress: float) -> tuple[torch.Tensor, torch.Tensor]:
        whole = progress > 0.85  # the last steps see whole pictures, as decoding will
        chosen = rng.integers(0, len(pictures), 2 if whole else settings.crops)
        at = [(int(p), 0, 0) for p in chosen] if whole else crops(rng, masks, chosen)
        edge = 128 if whole else CROP
        cut = lambda pool: torch.stack([pool[p, :, y : y + edge, x : x + edge] for p, y, x in at]).to(settings.device)
        x, mask = cut(pictures).float() / 127.5 - 1, cut(masks).float() / 255
        if rng.random() < 0.5:
            x, mask = x.flip(-1), mask.flip(-1)
        return x.contiguous(memory_format=settings.layout), mask

    @settings.compiled
    def there_and_back(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with settings.autocast():
            mean, logvar = vae.quant_conv(vae.encoder(x)).float().chunk(2, dim=1)
            logvar = logvar.clamp(-30, 20)
            latent = mean + (0.5 * logvar).exp() * torch.randn_like(mean)
            y = vae.decoder(vae.post_quant_conv(latent))
        return y.float(), 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()

    def step(_: int, progress: float) -> tuple[torch.Tensor, dict[str, float]]:
        x, mask = batch(progress)
        y, spread = there_and_back(x)
        loss, numbers = picture_loss(y, x, mask)
        return loss + 1e-4 * spread, {**numbers, "kl": spread.item()}

    train("vae", settings, minutes, {"vae": vae}, 1.5e-3, step)
    return vae.eval()


# --- the UNet and its text encoder -------------------------------------------------


@torch.no_grad()
def encode_pool(settings: Settings, vae: torch.nn.Module, pictures: torch.Tensor) -> torch.Tensor:
    """The pool's latents, [count, 4, 16, 16], not yet scaled; encoded once."""
    parts = [settings.work / f"latents-{rank}-of-{settings.processes}.pt" for rank in range(settings.processes)]

    @settings.compiled
    def encode(x: torch.Tensor) -> torch.Tensor:
        with settings.autocast():
            return vae.quant_conv(vae.encoder(x)).float().chunk(2, dim=1)[0]

    mine = pictures.tensor_split(settings.processes)[settings.rank]
    if not parts[settings.rank].exists():
        started, latents = time.time(), []
        for first in range(0, len(mine), 40):
            x = mine[first : first + 40].to(settings.device).float() / 127.5 - 1
            latents.append(encode(x).cpu())
            if first % 1000 == 0 and settings.rank == 0:
                left = (time.time() - started) * (len(mine) - first) / (first + 40) / 60
                print(f"encoding: {first} of {len(mine)}, {left:.1f} min left", flush=True)
        torch.save(torch.cat(latents).contiguous(), parts[settings.rank])
    settings.wait()
    return torch.cat([torch.load(part, weights_only=True) for part in parts])


def train_unet(
    settings: Settings, vae: torch.nn.Module, pictures: torch.Tensor, minutes: float, batch: int, folder: Path
):
    latents = encode_pool(settings, vae, pictures)
    scale = float(1 / latents.std())
    vae.register_to_config(scaling_factor=round(scale, 5))
    latents = (latents * vae.config.scaling_factor).to(settings.device)
    scenes = pool_scenes(len(latents))
    words = all_words()
    tokenizer = build_tokenizer(settings.work / f"tokenizer-{settings.rank}", words)
    torch.manual_seed(0)
    unet = build_unet().to(settings.device)
    text_encoder = build_text_encoder(tokenizer).to(settings.device)
    averages = {"unet": copy.deepcopy(unet), "text encoder": copy.deepcopy(text_encoder)}
    signal_share = make_scheduler().alphas_cumprod.to(settings.device)
    rng = settings.random()

    @settings.compiled
    def predict(noisy: torch.Tensor, t: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        with settings.autocast():
            context = text_encoder(ids).last_hidden_state
            return unet(noisy, t, context).sample.float()

    def step(_: int, progress: float) -> tuple[torch.Tensor, dict[str, float]]:
        chosen = rng.integers(0, len(latents), batch)
        # One in ten without words, for guidance.
        texts = ["" if rng.random() < 0.1 else caption(scenes[i], rng) for i in chosen]
        ids = tokenize(tokenizer, texts).to(settings.device)
        clean = latents[torch.from_numpy(chosen)]
        noise = torch.randn_like(clean)
        # One timestep in each of `batch` equal ranges: steadier than independent ones.
        t = ((torch.arange(batch) + torch.rand(batch)) * (1000 / batch)).long().to(settings.device)
        share = signal_share[t][:, None, None, None]
        predicted = predict(share.sqrt() * clean + (1 - share).sqrt() * noise, t, ids)
        error = ((predicted - noise) ** 2).mean((1, 2, 3))
        # Errors as errors of the picture, clipped where it is nearly clean. The plain mean
        # would hardly count the noisiest steps, and those decide sky, land and object.
        ratio = (share / (1 - share)).flatten()
        loss = (error * (ratio + 1).clamp(max=5) / ratio).mean()
        return loss, {"loss": loss.item(), "error": error.mean().item()}

    def write() -> None:
        if settings.rank > 0:
            return
        export(folder, vae, averages["unet"], averages["text encoder"], words)
        print(f"unet: exported to {folder}", flush=True)

    modules = {"unet": unet, "text encoder": text_encoder}
    train("unet", settings, minutes, modules, 1.2e-3, step, averages, write)
    write()
    return write


# --- the decoder, once more --------------------------------------------------------


def polish_decoder(
    settings: Settings, vae: torch.nn.Module, pictures: torch.Tensor, masks: torch.Tensor, minutes: float
) -> None:
    """Goes on with the decoder alone: the latents, and so the UNet, stay as they are. A
    little noise on the latents stands for the UNet's errors."""
    latents = encode_pool(settings, vae, pictures)
    noise = 0.03 * float(latents.std())
    rng = settings.random()

    @settings.compiled
    def decode(latent: torch.Tensor) -> torch.Tensor:
        with settings.autocast():
            return vae.decoder(vae.post_quant_conv(latent)).float()

    def step(_: int, progress: float) -> tuple[torch.Tensor, dict[str, float]]:
        whole = progress > 0.6
        chosen = rng.integers(0, len(pictures), 2 if whole else settings.crops)
        at = [(int(p), 0, 0) for p in chosen] if whole else crops(rng, masks, chosen)
        edge = 128 if whole else CROP
        cut = lambda pool, by: torch.stack(
            [pool[p, :, y // by : (y + edge) // by, x // by : (x + edge) // by] for p, y, x in at]
        ).to(settings.device)
        latent = cut(latents, 8).contiguous(memory_format=settings.layout)
        x = (cut(pictures, 1).float() / 127.5 - 1).contiguous(memory_format=settings.layout)
        y = decode(latent + noise * torch.randn_like(latent))
        return picture_loss(y, x, cut(masks, 1).float() / 255)

    modules = {"decoder": vae.decoder, "post quant conv": vae.post_quant_conv}
    train("polish", settings, minutes, modules, 6e-4, step)


# --- command line ------------------------------------------------------------------


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the pool, checkpoints and latents (2 GB)")
    parser.add_argument("--export", type=Path, required=True, help="folder for the model, written at every checkpoint")
    parser.add_argument("--scenes", type=int, default=12000, help="scenes in the pool (default %(default)s)")
    parser.add_argument("--vae-minutes", type=float, default=40, help="budget of the autoencoder (default %(default)s)")
    parser.add_argument("--unet-minutes", type=float, default=45, help="budget of the UNet (default %(default)s)")
    parser.add_argument(
        "--polish-minutes", type=float, default=15, help="budget of the decoder alone (default %(default)s)"
    )
    parser.add_argument(
        "--batch", type=int, default=16, help="latents in a step of the UNet, in each process (default %(default)s)"
    )
    parser.add_argument(
        "--crops", type=int, default=8, help="crops in a step of the autoencoder, in each process (default %(default)s)"
    )
    parser.add_argument("--save-minutes", type=float, default=3, help="between checkpoints (default %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ... (default %(default)s)")
    parser.add_argument(
        "--processes",
        type=int,
        default=1,
        help="share each step among so many: on a busy CPU, one "
        "process a core with --threads 1 beats threads, which wait for each other at every operation",
    )
    parser.add_argument("--by-the-clock", action="store_true", help="budgets are wall time, not time of computing")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of a process; 0 leaves the choice to torch")
    parser.add_argument("--full-precision", action="store_true", help="f32 arithmetic instead of bf16")
    parser.add_argument(
        "--no-compile", action="store_true", help="without torch.compile: slower, but needs no C++ compiler"
    )
    return parser.parse_args()


def work(rank: int, arguments: argparse.Namespace) -> None:
    # A process started in the background ignores Ctrl-C unless told otherwise.
    for interrupt in (signal.SIGINT, signal.SIGTERM):
        signal.signal(interrupt, signal.default_int_handler)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.processes > 1:
        options = {"rank": rank, "world_size": arguments.processes}
        torch.distributed.init_process_group("gloo", init_method="tcp://127.0.0.1:29517", **options)
    settings = Settings(
        work=arguments.work,
        device=torch.device(arguments.device),
        half=not arguments.full_precision,
        compile=not arguments.no_compile,
        wall=arguments.by_the_clock,
        crops=arguments.crops,
        save_minutes=arguments.save_minutes,
        rank=rank,
        processes=arguments.processes,
    )
    pictures, masks = load_pool(arguments.work, arguments.scenes)
    vae = train_vae(settings, pictures, masks, arguments.vae_minutes)
    write = train_unet(settings, vae, pictures, arguments.unet_minutes, arguments.batch, arguments.export)
    polish_decoder(settings, vae, pictures, masks, arguments.polish_minutes)
    write()


def main() -> None:
    arguments = parse()
    arguments.work.mkdir(parents=True, exist_ok=True)
    load_pool(arguments.work, arguments.scenes)
    if arguments.processes == 1:
        work(0, arguments)
    else:
        torch.multiprocessing.spawn(work, (arguments,), nprocs=arguments.processes)


if __name__ == "__main__":
    main()
