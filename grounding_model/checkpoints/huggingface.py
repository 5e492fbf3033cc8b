"""Reads and writes folders of transformers: MM-Grounding-DINO, LLMDet (same architecture), IDEA's Grounding DINO."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from formats.io.errors import InputError
from formats.io.files import load_json
from formats.io.values import Table, describe_value
from grounding_model.checkpoints.checkpoint import LABEL_EMBEDDING, Weights, draw_label_embedding, is_safetensors
from grounding_model.checkpoints.infer_config import OFFICIAL, Hints, config_of
from grounding_model.checkpoints.safe_pickle import describe_head, read_pickled_checkpoint
from grounding_model.checkpoints.weight_names import counted_maps, hugging_face_table, without_wrappers
from grounding_model.inputs.tokens import SPECIAL_TOKENS, TOKENIZER_FILES, CaptionTokenizer
from grounding_model.model.config import ModelConfig, SwinBackbone
from grounding_model.model.grounding import GroundingModel

if TYPE_CHECKING:
    from transformers import GroundingDinoConfig, MMGroundingDinoConfig

MODEL_TYPES = {"mm-grounding-dino": "MM-Grounding-DINO", "grounding-dino": "Grounding DINO"}
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")  # whole, or in parts that NAME.index.json lists
CONSTANT_SETTINGS = {  # constants of the architecture; with other values it is an unsupported model
    "two_stage": True,
    "embedding_init_target": True,
    "position_embedding_type": "sine",
    "positional_embedding_temperature": 20,
    "activation_function": "relu",
    "query_dim": 4,
}


def read_folder(folder: Path) -> Weights:
    """Reads config.json and the weights beside it. Raises InputError if they are not a supported Grounding DINO."""
    settings = _read_settings(folder)
    tensors, file = _read_tensors(folder)
    tensors = without_wrappers(tensors, file)
    layers = settings.whole("decoder_layers", OFFICIAL.decoder_layers, *_COUNT)
    table = hugging_face_table(counted_maps(tensors, "model.input_proj_vision"), layers)
    ours = table.to_ours(_unshared(tensors, settings, layers), file)
    architecture = MODEL_TYPES[settings.text("model_type")]
    provenance = {"source": folder.name, "architecture": architecture}
    if hub_name := settings.text("_name_or_path", ""):
        provenance["hub name"] = hub_name
    config = config_of(ours, _hints(settings), file, table.name_in_file)
    if config.decoder_layers != layers:
        what = f"has heads for {config.decoder_layers} decoder layers, but config.json has {layers}"
        raise InputError(file, what, "expected the config.json of these weights")
    draw_label_embedding(ours, config, provenance)
    return Weights(
        f"transformers folder ({architecture})",
        config,
        ours,
        table.name_in_file,
        folder if any((folder / name).is_file() for name in TOKENIZER_FILES) else None,
        provenance,
    )


_COUNT = (1, 1000)  # range of the numbers of layers and heads; more would take too long to build
_RATE = (0.0, 1.0)
_EXPECTED_CONFIG = "expected the config.json of transformers"


def _read_settings(folder: Path) -> Table:
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(folder, "has no config.json", "expected a checkpoint folder of transformers")
    settings = Table(load_json(path, _EXPECTED_CONFIG), path, _EXPECTED_CONFIG)
    if settings.text("model_type", None) not in MODEL_TYPES:
        kind = describe_value(settings.get("model_type"))
        raise InputError(path, f"model_type is {kind}", f"expected {' or '.join(MODEL_TYPES)}")
    backbone = settings.table("backbone_config").text("model_type", "swin")
    if backbone != "swin" or settings.get("use_timm_backbone"):
        raise InputError(path, f"the backbone is {backbone}", "expected swin")
    for key, value in CONSTANT_SETTINGS.items():
        if settings.get(key, value) != value:
            what = f"{key} is {describe_value(settings.get(key))}"
            raise InputError(path, what, f"expected {describe_value(value)}; other models are not supported")
    return settings


_EXPECTED_INDEX = 'expected {"weight_map": {"name of a tensor": "file beside it"}}'


def _read_tensors(folder: Path) -> tuple[dict[str, Tensor], Path]:
    """The tensors, and the file that names them; of several, the one that transformers prefers."""
    try:
        for name in WEIGHT_FILES:
            if (path := folder / name).is_file():
                return _read_file(path), path
            if (index := folder / f"{name}.index.json").is_file():
                return _read_shards(index), index
    except InputError:
        raise
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise InputError(folder, f"its weights cannot be read ({error})", "download them again") from None
    raise InputError(folder, "has no weights", f"expected {' or '.join(WEIGHT_FILES)}")


def _read_shards(index: Path) -> dict[str, Tensor]:
    files = Table(load_json(index, _EXPECTED_INDEX), index, _EXPECTED_INDEX).table("weight_map")
    tensors: dict[str, Tensor] = {}
    for shard in sorted({Path(files.text(name)).name for name in files.keys()}):  # noqa: SIM118 - not a dict
        path = index.parent / shard
        if not path.is_file():  # a pipe of that name would be waited for
            what = f"lists {describe_value(shard)}, which does not exist beside it"
            raise InputError(index, what, "download the whole folder")
        shard_tensors = _read_file(path)
        if twice := next((name for name in shard_tensors if name in tensors), None):
            raise InputError(path, f"contains {twice}, as another file does", "download the whole folder")
        tensors |= shard_tensors
    return tensors


def _read_file(path: Path) -> dict[str, Tensor]:
    if path.suffix != ".safetensors":
        return read_pickled_checkpoint(path).tensors
    if not is_safetensors(path):
        what = describe_head(path).replace("a PyTorch file", "a safetensors file")
        raise InputError(path, what, "download it again")
    return load_file(path)


def _unshared(tensors: Mapping[str, Tensor], settings: Table, decoder_layers: int) -> dict[str, Tensor]:
    """Gives every decoder layer its own copy of heads that are shared and stored only once."""
    tensors = dict(tensors)
    shared = {"bbox_embed": "decoder_bbox_embed_share", "class_embed": "decoder_cls_embed_share"}
    for head, setting in shared.items():
        if not settings.get(setting, True):
            continue
        for name in [name for name in tensors if name.startswith(f"{head}.0.")]:
            for layer in range(1, decoder_layers):
                tensors.setdefault(name.replace(f"{head}.0.", f"{head}.{layer}.", 1), tensors[name])
    return tensors


def _hints(settings: Table) -> Hints:
    heads = settings.whole("encoder_attention_heads", OFFICIAL.heads, *_COUNT)
    if settings.whole("decoder_attention_heads", heads, *_COUNT) != heads:
        raise InputError(
            settings.location, "the encoder and the decoder differ in attention heads", "expected the same number"
        )
    text, backbone = settings.table("text_config"), settings.table("backbone_config")
    # Folders that we wrote contain the rates used in training; those on the hub contain defaults of the library.
    ours = settings.table("groundhog")
    return Hints(
        heads=heads,
        text_heads=heads // 2,  # transformers derives both from the encoder's heads
        fusion_heads=heads // 2,
        bert_heads=text.whole("num_attention_heads", None, *_COUNT),
        bert_dropout=text.number("hidden_dropout_prob", OFFICIAL.text.dropout, *_RATE),
        swin_drop_path=backbone.number("drop_path_rate", None, *_RATE) if ours.keys() else None,
        fusion_dropout=ours.number("fusion_dropout", OFFICIAL.fusion_dropout, *_RATE),
        dropout=ours.number("dropout", OFFICIAL.dropout, *_RATE),
        max_text_tokens=settings.whole("max_text_len", OFFICIAL.max_text_tokens, 1, 1 << 20),
        encoder_layers=settings.whole("encoder_layers", None, *_COUNT),
        bert_layers=text.whole("num_hidden_layers", None, *_COUNT),
    )


# --- writing


def save_folder(folder: str | Path, model: GroundingModel, tokenizer: CaptionTokenizer, half: bool = False) -> None:
    """Writes a folder that transformers loads and runs with equal results, atomically.

    The label embedding of denoising is left out, since transformers cannot store it.
    Raises InputError if the folder exists and is not empty, or transformers cannot express the model.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(folder, "already exists", "expected a new name")
    _check_expressible(model.config, folder)
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        temporary.mkdir(parents=True)
        tensors = _in_their_names(model)
        if half:
            tensors = {name: tensor.half() for name, tensor in tensors.items()}
        save_file(tensors, temporary / "model.safetensors", metadata={"format": "pt"})
        _their_config(model.config, half).save_pretrained(temporary)
        save_tokenizer(temporary, tokenizer)
        if folder.exists():
            folder.rmdir()
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def save_tokenizer(folder: str | Path, tokenizer: CaptionTokenizer) -> None:
    """Writes the tokenizer files of transformers into a folder."""
    from transformers import PreTrainedTokenizerFast

    text = tokenizer.backend_tokenizer.to_str()  # a copy, since saving changes its truncation and padding
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(text), **SPECIAL_TOKENS).save_pretrained(folder)


def _in_their_names(model: GroundingModel) -> dict[str, Tensor]:
    """The tensors by the names of published files, which transformers maps to those of its classes when loading."""
    table = hugging_face_table(len(model.backbone.channels), model.config.decoder_layers)
    learned = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items() if name != LABEL_EMBEDDING}
    theirs = table.to_theirs(learned)
    # There, a class bias is a scalar.
    return {name: (t.reshape(()) if "class_embed" in name else t.clone().contiguous()) for name, t in theirs.items()}


def _their_config(config: ModelConfig, half: bool) -> MMGroundingDinoConfig | GroundingDinoConfig:
    from transformers import GroundingDinoConfig, MMGroundingDinoConfig

    precision = "float16" if half else "float32"
    settings = _settings_of(config) | {"dtype": precision}
    if config.contrastive_bias:
        return MMGroundingDinoConfig(**settings, architectures=["MMGroundingDinoForObjectDetection"])
    return GroundingDinoConfig(**settings, architectures=["GroundingDinoForObjectDetection"])


def _check_expressible(config: ModelConfig, location: object) -> None:
    half_of = f"half of {config.heads} heads"
    wrong = {
        "a backbone other than Swin": not isinstance(config.backbone, SwinBackbone),
        f"text_heads {config.text_heads}, not {half_of}": config.text_heads != config.heads // 2,
        f"fusion_heads {config.fusion_heads}, not {half_of}": config.fusion_heads != config.heads // 2,
        f"fusion_width {config.fusion_width}, not half of feedforward": config.fusion_width != config.feedforward // 2,
        f"text_feedforward {config.text_feedforward}, not half of feedforward": config.text_feedforward
        != config.feedforward // 2,
        f"contrastive_scale {config.contrastive_scale} with{'' if config.contrastive_bias else 'out'} bias": (
            config.contrastive_scale != ("sqrt_width" if config.contrastive_bias else "none")
        ),
    }
    reasons = [reason for reason, is_so in wrong.items() if is_so]
    if reasons:
        raise InputError(location, f"transformers cannot express {', '.join(reasons)}", "keep it as .safetensors")


def _settings_of(config: ModelConfig) -> dict:
    backbone, text = config.backbone, config.text
    assert isinstance(backbone, SwinBackbone)  # checked by _check_expressible
    return dict(
        backbone_config=dict(
            model_type="swin",
            embed_dim=backbone.embed_dim,
            depths=list(backbone.depths),
            num_heads=list(backbone.heads),
            window_size=backbone.window,
            out_indices=[stage + 1 for stage in backbone.out_stages],
            drop_path_rate=backbone.drop_path,
            # Only affects at which input size transformers shrinks its window.
            image_size=384 if backbone.window == 12 else 224,
        ),
        text_config=dict(
            model_type="bert",
            vocab_size=text.vocab_size,
            hidden_size=text.width,
            num_hidden_layers=text.layers,
            num_attention_heads=text.heads,
            intermediate_size=text.feedforward,
            max_position_embeddings=text.positions,
            hidden_dropout_prob=text.dropout,
            attention_probs_dropout_prob=text.dropout,
        ),
        num_queries=config.queries,
        d_model=config.width,
        encoder_layers=config.encoder_layers,
        encoder_ffn_dim=config.feedforward,
        encoder_attention_heads=config.heads,
        encoder_n_points=config.points,
        decoder_layers=config.decoder_layers,
        decoder_ffn_dim=config.feedforward,
        decoder_attention_heads=config.heads,
        decoder_n_points=config.points,
        num_feature_levels=config.levels,
        max_text_len=config.max_text_tokens,
        dropout=config.dropout,
        fusion_dropout=config.fusion_dropout,
        fusion_droppath=0.0,
        decoder_bbox_embed_share=False,
        decoder_cls_embed_share=False,
        two_stage_bbox_embed_share=False,
        groundhog={"dropout": config.dropout, "fusion_dropout": config.fusion_dropout},
    )
