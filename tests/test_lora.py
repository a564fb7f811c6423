"""LoRA: what is published, saved and taken for the reference, against peft and the base model."""

import contextlib
import copy
import types

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from learner.director_weights import director_weights
from learner.lora import adapt, adapter_weights, save_adapter, without_adapter
from wfr.learner_config import LoraConfig

SETTINGS = LoraConfig(rank=3, alpha=6)


def build():
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=31,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        initializer_range=0.4,
    )
    return Qwen2ForCausalLM(config).eval()


def adapted(settings=SETTINGS):
    """A model whose adapter is no longer the identity it starts as."""
    model = build()
    adapt(model, settings)
    with torch.no_grad():
        for name, parameter in adapter_weights(model).items():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    return model


def logits(model):
    return model(torch.arange(12)[None] % 31, use_cache=False).logits


def test_a_fresh_adapter_changes_nothing_and_alone_is_trainable():
    model = build()
    expected = logits(model)
    adapt(model, SETTINGS)
    assert torch.equal(logits(model), expected)
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert len(trainable) == 2 * 2 * 4
    assert all("lora_" in name for name in trainable)
    assert len(adapter_weights(model)) == len(trainable)


def test_merged_weights_equal_those_of_peft():
    """The oracle is peft's own merge into the model, on a copy."""
    model = adapted()
    merged = {name: weight.whole().clone() for name, weight in director_weights(model).items()}
    plain = build()
    assert merged.keys() == dict(plain.named_parameters()).keys()
    plain.load_state_dict(merged, strict=False)
    assert (logits(plain) - logits(build())).abs().max() > 0.1
    torch.testing.assert_close(logits(plain), logits(model), atol=1e-5, rtol=1e-5)

    oracle = copy.deepcopy(model)
    for module in oracle.modules():
        if hasattr(module, "merge"):
            module.merge()
    for name, parameter in oracle.named_parameters():
        if not name.endswith(".default.weight"):
            assert torch.equal(merged[name.replace(".base_layer", "")], parameter), name


def test_merging_leaves_the_training_weights_alone():
    model = adapted()
    before = {name: p.clone() for name, p in model.named_parameters()}
    for weight in director_weights(model).values():
        weight.whole()
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


@pytest.mark.engine
def test_a_layer_is_gathered_with_its_adapter_before_it_is_merged():
    """Under ZeRO-3 no weight may be read outside the block that gathers it."""
    from learner import publisher

    model = adapted()
    gathered = []

    @contextlib.contextmanager
    def gather(parameters):
        gathered.append({id(p) for p in parameters})
        yield
        gathered.append(set())

    source = publisher.EngineSource(types.SimpleNamespace(gathered=gather), model)
    weights = director_weights(model)
    yielded = []
    for name, tensor in source:
        yielded.append(name)
        assert {id(p) for p in weights[name].parameters} <= gathered[-1], name
        assert tensor.shape == build().get_parameter(name).shape
    assert [meta.name for meta in source.metadata()] == yielded
    assert len(gathered) > 4


def test_without_its_adapter_the_model_is_the_base_model():
    model = adapted()
    changed = logits(model)
    with without_adapter(model):
        assert torch.equal(logits(model), logits(build()))
    assert torch.equal(logits(model), changed)
    assert all(p.requires_grad for p in adapter_weights(model).values())


def test_a_saved_adapter_is_one_for_peft(tmp_path):
    from peft import PeftModel

    model = adapted()
    weights = {name: p.detach().clone() for name, p in adapter_weights(model).items()}
    save_adapter(weights, SETTINGS, base="somewhere", target=tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(build(), tmp_path / "adapter")
    torch.testing.assert_close(logits(loaded), logits(model))
    assert loaded.peft_config["default"].base_model_name_or_path == "somewhere"


def test_an_unknown_target_is_refused_with_what_there_is():
    for target in ("query", "lm_head"):
        with pytest.raises(ValueError, match=rf"named {target}; it has .*q_proj"):
            adapt(build(), LoraConfig(rank=2, targets=("q_proj", target)))
