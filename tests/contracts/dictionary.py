"""What every dictionary must do: a test class inherits these tests and says how to build one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from didae.dictionaries import Dictionary
from didae.errors import DidaeError

COUNT = 4
WIDTH = 9

# Inherited tests run under several classes, which Hypothesis otherwise takes for a mistake.
PROPERTY = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.differing_executors]
)


def sample(seed=0, samples=300, noise=0.3):
    """Embeddings with four planted factors of distinct strength, oblique and off centre."""
    random = np.random.default_rng(seed)
    factors = random.uniform(size=(samples, COUNT))
    mixing = random.normal(size=(COUNT, WIDTH)) * np.array([[6.0], [4.0], [2.5], [1.5]])
    z = 3 + factors @ mixing + noise * random.normal(size=(samples, WIDTH))
    return z, factors


class DictionaryContract:
    """Tests for any dictionary of `COUNT` directions."""

    signed_by_data = True
    """Whether the signs of atoms turn with a rotation of z."""

    def make(self) -> Dictionary:
        """Build an unfitted dictionary of `COUNT` directions."""
        raise NotImplementedError

    def fitted(self, **keywords) -> Dictionary:
        z, factors = sample()
        return self.make().fit(z, factors, **keywords)

    def test_fit_returns_itself_with_float32_buffers(self):
        dictionary = self.make()
        z, factors = sample()
        assert dictionary.fit(z, factors) is dictionary
        shapes = {name: tuple(tensor.shape) for name, tensor in dictionary.state_dict().items()}
        assert shapes == {
            "mean": (WIDTH,),
            "analysis": (COUNT, WIDTH),
            "atoms": (COUNT, WIDTH),
            "code_low": (COUNT,),
            "code_high": (COUNT,),
            "code_std": (COUNT,),
        }
        assert {tensor.dtype for tensor in dictionary.state_dict().values()} == {torch.float32}
        assert list(dictionary.parameters()) == []

    def test_atoms_have_unit_length_and_are_dual_to_the_analysis(self):
        dictionary = self.fitted()
        torch.testing.assert_close(dictionary.atoms.norm(dim=1), torch.ones(COUNT))
        identity = dictionary.analysis @ dictionary.atoms.T
        torch.testing.assert_close(identity, torch.eye(COUNT), atol=2e-6, rtol=0)

    def test_a_step_along_an_atom_changes_its_code_only(self):
        dictionary = self.fitted().double()
        z = torch.from_numpy(sample(1)[0])
        before = dictionary.encode(z)
        for k in range(COUNT):
            after = dictionary.encode(z + 0.7 * dictionary.atoms[k])
            expected = before + 0.7 * torch.eye(COUNT, dtype=torch.float64)[k]
            torch.testing.assert_close(after, expected, atol=2e-6, rtol=0)

    def test_encode_and_decode_are_the_formulas(self):
        dictionary = self.fitted()
        z = torch.from_numpy(sample(1)[0]).float()
        codes = dictionary.encode(z)
        assert codes.shape == (len(z), COUNT)
        torch.testing.assert_close(codes, (z - dictionary.mean) @ dictionary.analysis.T)
        torch.testing.assert_close(
            dictionary.decode(codes), dictionary.mean + codes @ dictionary.atoms
        )

    def test_reconstruction_is_idempotent_and_keeps_the_codes(self):
        dictionary = self.fitted().double()
        z = torch.from_numpy(sample(1)[0])
        once = dictionary.decode(dictionary.encode(z))
        torch.testing.assert_close(dictionary.encode(once), dictionary.encode(z), atol=1e-5, rtol=0)
        torch.testing.assert_close(
            dictionary.decode(dictionary.encode(once)), once, atol=1e-5, rtol=0
        )

    def test_batch_equals_single_and_leading_axes_are_free(self):
        dictionary = self.fitted().double()
        z = torch.from_numpy(sample(1)[0])[:12]
        codes = dictionary.encode(z)
        singles = torch.stack([dictionary.encode(row) for row in z])
        torch.testing.assert_close(codes, singles, atol=1e-12, rtol=0)
        torch.testing.assert_close(
            dictionary.encode(z.reshape(3, 4, WIDTH)), codes.reshape(3, 4, COUNT)
        )

    def test_codes_have_the_dtype_of_the_dictionary(self):
        dictionary = self.fitted()
        z = torch.from_numpy(sample(1)[0])
        assert dictionary.encode(z).dtype == torch.float32
        assert dictionary.encode(z.bfloat16()).dtype == torch.float32
        assert dictionary.double().encode(z.float()).dtype == torch.float64

    def test_code_statistics_are_those_of_the_fitting_data(self):
        z, factors = sample()
        dictionary = self.make().fit(z, factors)
        codes = dictionary.encode(torch.from_numpy(z)).double().numpy()
        np.testing.assert_allclose(codes.mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(dictionary.code_std, codes.std(0), rtol=1e-5)
        np.testing.assert_allclose(
            dictionary.code_low, np.quantile(codes, 0.001, axis=0), rtol=1e-4
        )
        np.testing.assert_allclose(
            dictionary.code_high, np.quantile(codes, 0.999, axis=0), rtol=1e-4
        )

    @PROPERTY
    @given(seed=st.integers(0, 10_000))
    def test_row_order_changes_nothing_not_even_signs(self, seed):
        z, factors = sample(seed)
        order = np.random.default_rng(seed + 1).permutation(len(z))
        first = self.make().fit(z, factors)
        second = self.make().fit(z[order], factors[order])
        torch.testing.assert_close(first.atoms, second.atoms, atol=1e-5, rtol=0)
        torch.testing.assert_close(first.analysis, second.analysis, atol=1e-5, rtol=1e-5)

    @PROPERTY
    @given(seed=st.integers(0, 10_000), scale=st.floats(1e-3, 1e3), shift=st.floats(-50, 50))
    def test_translation_and_scale_of_z_change_no_atom(self, seed, scale, shift):
        z, factors = sample(seed)
        first = self.make().fit(z, factors)
        second = self.make().fit(scale * (z + shift), factors)
        torch.testing.assert_close(first.atoms, second.atoms, atol=1e-5, rtol=0)
        torch.testing.assert_close(first.analysis, second.analysis, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(scale * first.code_std, second.code_std)

    @PROPERTY
    @given(seed=st.integers(0, 10_000))
    def test_atoms_turn_with_z(self, seed):
        z, factors = sample(seed)
        turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(WIDTH, WIDTH)))[0]
        expected = self.make().fit(z, factors).atoms.double() @ torch.from_numpy(turn)
        turned = self.make().fit(z @ turn, factors).atoms.double()
        if not self.signed_by_data:
            turned = turned * (turned * expected).sum(1, keepdim=True).sign()
        torch.testing.assert_close(turned, expected, atol=1e-5, rtol=0)

    def test_tensors_and_arrays_of_any_device_and_order_fit_alike(self):
        z, factors = sample()
        first = self.make().fit(z, factors)
        second = self.make().fit(
            torch.from_numpy(np.asfortranarray(z)).requires_grad_(), torch.from_numpy(factors)
        )
        assert torch.equal(first.atoms, second.atoms)

    def test_more_dimensions_than_samples(self):
        random = np.random.default_rng(3)
        factors = random.uniform(size=(30, COUNT))
        z = factors @ random.normal(size=(COUNT, 100)) + 0.01 * random.normal(size=(30, 100))
        dictionary = self.make().fit(z, factors)
        assert all(tensor.isfinite().all() for tensor in dictionary.state_dict().values())
        identity = dictionary.analysis @ dictionary.atoms.T
        torch.testing.assert_close(identity, torch.eye(COUNT), atol=1e-4, rtol=0)

    def test_names(self):
        assert self.fitted().names == tuple(f"direction_{k}" for k in range(COUNT))
        assert self.fitted(names=["a", "b", "c", "d"]).names == ("a", "b", "c", "d")
        for wrong in (["a", "b", "c"], ["a", "b", "c", "a"], "abcd"):
            with pytest.raises(DidaeError, match="4 different names"):
                self.fitted(names=wrong)

    def test_save_and_load(self, tmp_path):
        dictionary = self.fitted(names=["a", "b", "c", "d"], encoder_fingerprint="00ff")
        dictionary.save(tmp_path / "dictionary")
        for family in (Dictionary, type(dictionary)):
            loaded = family.load(tmp_path / "dictionary")
            assert type(loaded) is type(dictionary)
            assert loaded.options == dictionary.options
            assert (loaded.names, loaded.encoder_fingerprint) == (("a", "b", "c", "d"), "00ff")
            assert loaded.fingerprint == dictionary.fingerprint
            z = torch.from_numpy(sample(1)[0])
            assert torch.equal(loaded.encode(z), dictionary.encode(z))
            assert loaded.state_dict().keys() == dictionary.state_dict().keys()
            assert all(
                torch.equal(value, dictionary.state_dict()[name])
                for name, value in loaded.state_dict().items()
            )

    def test_fingerprint_tells_dictionaries_apart(self):
        first = self.fitted(encoder_fingerprint="00ff")
        assert first.fingerprint == self.fitted(encoder_fingerprint="00ff").fingerprint
        others = [
            self.fitted(encoder_fingerprint="00fe"),
            self.fitted(names=["a", "b", "c", "d"], encoder_fingerprint="00ff"),
            self.make().fit(*sample(1), encoder_fingerprint="00ff"),
        ]
        assert len({first.fingerprint, *(other.fingerprint for other in others)}) == 4

    def test_another_encoder_is_refused(self):
        dictionary = self.fitted(encoder_fingerprint="00ff")
        dictionary.require_encoder("00ff")
        with pytest.raises(DidaeError, match=r"00ff.*00fe.*fit"):
            dictionary.require_encoder("00fe")
        self.fitted().require_encoder("00fe")

    def test_another_width_is_refused(self):
        dictionary = self.fitted()
        with pytest.raises(DidaeError, match=r"\(2, 5\).*width 9"):
            dictionary.encode(torch.zeros(2, 5))
        with pytest.raises(DidaeError, match=r"\(2, 5\).*width 4"):
            dictionary.decode(torch.zeros(2, 5))

    def test_unfitted_is_refused(self, tmp_path):
        for action in (
            lambda: self.make().encode(torch.zeros(2, WIDTH)),
            lambda: self.make().decode(torch.zeros(2, COUNT)),
            lambda: self.make().save(tmp_path),
        ):
            with pytest.raises(DidaeError, match="fit or load"):
                action()

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_embeddings_that_are_not_finite_are_refused(self, value):
        z, factors = sample()
        z[17, 5] = value
        with pytest.raises(DidaeError, match=r"embeddings.*row 17, column 5"):
            self.make().fit(z, factors)

    def test_sizes_that_cannot_be_fitted_are_refused(self):
        z, factors = sample()
        with pytest.raises(DidaeError, match=r"4 samples .* at least 5"):
            self.make().fit(z[:COUNT], factors[:COUNT])
        with pytest.raises(DidaeError, match="width 3"):
            self.make().fit(z[:, :3], factors)
        with pytest.raises(DidaeError, match="shape"):
            self.make().fit(z[0], factors)
        with pytest.raises(DidaeError, match="all embeddings are equal"):
            self.make().fit(np.repeat(z[:1], len(z), 0).astype(np.float32), factors)

    def test_a_failed_fit_changes_nothing(self):
        dictionary = self.fitted(encoder_fingerprint="00ff")
        before = dictionary.fingerprint
        z, factors = sample(1)
        z[0, 0] = np.nan
        with pytest.raises(DidaeError):
            dictionary.fit(z, factors)
        assert dictionary.fingerprint == before
