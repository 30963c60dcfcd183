"""The original system: transformers and torch, eager, with one call for each item.

An agent (see `benchmarks.load.agents`). It also measures the networks alone, in batches.
"""

from __future__ import annotations

import io
import time
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

from PIL import Image

from benchmarks.load import agents, contents

if TYPE_CHECKING:
    from collections.abc import Callable


class Original:
    """A CLIP model in transformers' own classes."""

    def load(self, *, folder: str, device: str, dtype: str = "float32") -> dict[str, Any]:
        """Load the model from a folder."""
        import torch  # noqa: PLC0415 - only this process pays for it
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer  # noqa: PLC0415
        from transformers.utils.logging import disable_progress_bar  # noqa: PLC0415

        disable_progress_bar()
        self._torch = torch
        self._device = device
        self._dtype = getattr(torch, dtype)
        self._model = AutoModel.from_pretrained(folder, dtype=dtype).eval().to(device)
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._processor = AutoImageProcessor.from_pretrained(folder)
        return {"torch": torch.__version__, "threads": torch.get_num_threads()}

    def throughput(self, *, kind: str, seconds: float) -> dict[str, Any]:
        """Return items per second, with one call for each."""
        embed: Callable[[Any], Any] = self._text if kind == "text" else self._image
        source = cycle(contents.texts(256) if kind == "text" else contents.jpegs(128))
        items = 0
        with self._torch.inference_mode():
            embed(next(source))
            start = time.perf_counter()
            while (elapsed := time.perf_counter() - start) < seconds:
                embed(next(source))
                items += 1
        return {"rate": items / elapsed}

    def tower(self, *, kind: str, batch: int, seconds: float) -> dict[str, Any]:
        """Return items per second of the network alone, called with `batch` prepared items."""
        if kind == "text":
            inputs = self._tokens(contents.texts(batch))
            forward = self._model.get_text_features
        else:
            inputs = self._pixels(list(islice(cycle(contents.jpegs(128)), batch)))
            inputs["pixel_values"] = inputs["pixel_values"].to(self._dtype)
            forward = self._model.get_image_features
        with self._torch.inference_mode():
            rate = agents.calls_per_second(
                lambda: self._unit(
                    forward(**{name: part.to(self._device) for name, part in inputs.items()})
                ),
                seconds,
            )
        return {"rate": batch * rate}

    def store(self, *, milvus_uri: str, seconds: float) -> dict[str, Any]:
        """Return images per second, with one model call and one insert for each."""
        from pymilvus import MilvusClient  # noqa: PLC0415 - only for this

        client, name = MilvusClient(milvus_uri), "original"
        source = cycle(contents.jpegs(128))
        with self._torch.inference_mode():
            dimensions = self._image(next(source)).shape[1]
            client.create_collection(name, dimensions, metric_type="COSINE", auto_id=True)
            items = 0
            start = time.perf_counter()
            while (elapsed := time.perf_counter() - start) < seconds:
                [vector] = self._image(next(source))
                client.insert(name, [{"vector": vector, "path": f"images/{items}.jpg"}])
                items += 1
        client.drop_collection(name)
        client.close()
        return {"rate": items / elapsed}

    def _text(self, text: str) -> Any:
        return self._unit(self._model.get_text_features(**self._tokens([text]).to(self._device)))

    def _image(self, data: bytes) -> Any:
        return self._unit(self._model.get_image_features(**self._pixels([data]).to(self._device)))

    def _tokens(self, texts: list[str]) -> Any:
        return self._tokenizer(texts, return_tensors="pt", padding=True, truncation=True)

    def _pixels(self, files: list[bytes]) -> Any:
        pictures = [Image.open(io.BytesIO(data), formats=["JPEG"]).convert("RGB") for data in files]
        return self._processor(images=pictures, return_tensors="pt")

    def _unit(self, features: Any) -> Any:
        vectors = getattr(features, "pooler_output", features)  # transformers 5, or before
        return self._torch.nn.functional.normalize(vectors).float().cpu().numpy()


def main() -> None:
    original = Original()
    agents.serve(
        {
            "load": original.load,
            "throughput": original.throughput,
            "tower": original.tower,
            "store": original.store,
        }
    )


if __name__ == "__main__":
    main()
