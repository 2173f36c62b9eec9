"""CelebA's official files, fetched by torchvision."""

from pathlib import Path


def download_celeba(root: str | Path) -> Path:
    """Fetch the official files (about 1.4 GB) with torchvision; returns their folder.

    Raises ConnectionError if the drive refuses, as it often does (torchvision issue 2262), with instructions.
    """
    from torchvision.datasets import CelebA

    root = Path(root).expanduser()
    try:
        CelebA(str(root), split="all", download=True)
    except Exception as error:  # URL, zip, checksum or quota: whatever the downloader raises
        raise ConnectionError(
            f"CelebA could not be fetched into {root} ({type(error).__name__}: {error}).\n"
            f"Put list_attr_celeba.txt, list_eval_partition.txt and img_align_celeba.zip into {root / 'celeba'} by hand."
        ) from error
    return root / "celeba"
