"""Our pass against the package's own embedding, and independence of company."""

import numpy as np
import pytest
import torch
from scgpt_examples import ARGS, LAYOUTS, SYMBOLS, make_checkpoint, profiles
from scgpt_package import package_embedding

from histofuse.genomics.scgpt.checkpoint import load_checkpoint
from histofuse.genomics.scgpt.encoder import embed
from histofuse.genomics.scgpt.tokens import Tokens, tokenise
from histofuse.io import InputError

LENGTHS = [2, 5, 17, 52, 80, 80, 80, 131, 200, 256, 299]  # not 1 + 7k, where the edges of bins meet values


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Small networks gain nothing from two, and lose much where another test wants the other core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return load_checkpoint(make_checkpoint(tmp_path_factory.mktemp("scgpt")))


@pytest.fixture(scope="module")
def tokens():
    return tokenise(profiles(LENGTHS), np.arange(len(SYMBOLS)))


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The package's own, in one padded batch."""
    return package_embedding(make_checkpoint(tmp_path_factory.mktemp("ref")), profiles(LENGTHS), SYMBOLS)


def token_ids(checkpoint, symbols):
    return np.array([checkpoint.vocabulary[symbol] for symbol in symbols])


def cosine(a, b):
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("tokens_per_batch", [None, 400, 100_000])
def test_equals_the_package(tmp_path, tokens, reference, layout, tokens_per_batch):
    """Vocabulary, tokens, layouts of the file and pass, all on the real road."""
    checkpoint = load_checkpoint(make_checkpoint(tmp_path, layout))
    ids = token_ids(checkpoint, SYMBOLS)
    ours = embed(checkpoint, tokenise(profiles(LENGTHS), ids), tokens_per_batch=tokens_per_batch)
    assert cosine(ours, reference).min() > 0.999999
    np.testing.assert_allclose(ours, reference, atol=2e-6)
    assert cosine(reference[4:7], reference[[5, 6, 4]]).max() < 0.98  # as far as profiles of one length are apart


def test_bfloat16_is_close(checkpoint, tokens, reference):
    for tokens_per_batch in (None, 1000):
        ours = embed(checkpoint, tokens, precision="bfloat16", tokens_per_batch=tokens_per_batch)
        assert cosine(ours, reference).min() > 0.999
        np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-6)


def test_one_layer(tmp_path, tokens):
    folder = make_checkpoint(tmp_path, args=ARGS | {"nlayers": 1})
    ours = embed(load_checkpoint(folder), tokens)
    np.testing.assert_allclose(ours, package_embedding(folder, profiles(LENGTHS), SYMBOLS), atol=2e-6)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_company_changes_nothing(checkpoint, tokens, precision):
    """To the last bit when profiles go one at a time, as they do on a CPU; run after run."""
    alone = embed(checkpoint, tokens, precision)
    assert embed(checkpoint, tokens, precision).tobytes() == alone.tobytes()
    order = np.random.default_rng(1).permutation(len(tokens))
    assert embed(checkpoint, tokens.select(order), precision).tobytes() == alone[order].tobytes()
    for chunk in ([0], [3, 1], range(4, 11)):
        assert embed(checkpoint, tokens.select(list(chunk)), precision).tobytes() == alone[list(chunk)].tobytes()


@pytest.mark.parametrize("tokens_per_batch", [1, 170, 333, 1000, 5000])
def test_batches_change_no_more_than_rounding(checkpoint, tokens, tokens_per_batch):
    """Padded batches of any size, in any order, any chunk."""
    alone = embed(checkpoint, tokens)
    batched = embed(checkpoint, tokens, tokens_per_batch=tokens_per_batch)
    np.testing.assert_allclose(batched, alone, atol=1e-5)
    assert embed(checkpoint, tokens, tokens_per_batch=tokens_per_batch).tobytes() == batched.tobytes()
    order = np.random.default_rng(2).permutation(len(tokens))[:9]
    some = embed(checkpoint, tokens.select(order), tokens_per_batch=tokens_per_batch)
    np.testing.assert_allclose(some, alone[order], atol=1e-5)


def test_order_of_columns_changes_nothing(checkpoint, tokens):
    columns = np.random.default_rng(3).permutation(len(SYMBOLS))
    moved = tokenise(profiles(LENGTHS)[:, columns], token_ids(checkpoint, [SYMBOLS[i] for i in columns]))
    assert embed(checkpoint, moved).tobytes() == embed(checkpoint, tokens).tobytes()


def test_number_of_threads_changes_no_more_than_rounding(checkpoint, tokens):
    results = []
    for number in (2, 1):
        torch.set_num_threads(number)
        results.append(embed(checkpoint, tokens))
    np.testing.assert_allclose(results[0], results[1], atol=1e-6)


def test_no_profiles_no_rows(checkpoint):
    nothing = Tokens(np.empty(0, np.int32), np.empty(0, np.uint8), np.zeros(1, np.int64))
    assert embed(checkpoint, nothing).shape == (0, ARGS["embsize"])


def test_weights_and_random_numbers_are_left_as_they_were(checkpoint, tokens):
    before = {key: value.clone() for key, value in checkpoint.model.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    embed(checkpoint, tokens, "bfloat16")
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(value, before[key]) for key, value in checkpoint.model.state_dict().items())


def test_unknown_precision_is_refused(checkpoint, tokens):
    with pytest.raises(InputError, match="'float16' is not one of float32, bfloat16"):
        embed(checkpoint, tokens, "float16")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize(("precision", "least"), [("float32", 0.999999), ("bfloat16", 0.999)])
def test_on_a_gpu(checkpoint, tokens, reference, precision, least):
    assert cosine(embed(checkpoint, tokens, precision, device="cuda"), reference).min() > least
