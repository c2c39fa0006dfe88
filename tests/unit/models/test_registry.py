"""From the text of `class:` to a class."""

import pytest

from histofuse.io import InputError
from histofuse.models.registry import load_class
from histofuse.models.snn import SNN


def test_a_class_of_the_library():
    assert load_class("histofuse.models.snn:SNN") is SNN


def test_a_class_of_a_file_beside_the_configuration(tmp_path):
    file = tmp_path / "my_model.py"
    file.write_text("class MyModel:\n    answer = 42\n")
    assert load_class("my_model:MyModel", file).answer == 42


def test_errors_say_what_to_do(tmp_path):
    with pytest.raises(InputError, match="module:Name"):
        load_class("histofuse.models.snn.SNN")
    with pytest.raises(InputError, match="defines no Snn"):
        load_class("histofuse.models.snn:Snn")
    with pytest.raises(InputError, match=r"Put nowhere\.py beside the configuration"):
        load_class("nowhere:Model")


def test_a_package_that_the_file_of_a_class_lacks_is_named(tmp_path):
    file = tmp_path / "my_model.py"
    file.write_text("import no_such_package.layers\n")
    with pytest.raises(InputError, match=r"'no_such_package'\. my_model imports it: install it") as error:
        load_class("my_model:MyModel", file)
    assert "beside the configuration" not in str(error.value)


def test_a_module_in_a_folder_that_is_not_there_is_to_be_put_there():
    with pytest.raises(InputError, match=r"Put my_folder/my_model\.py beside the configuration"):
        load_class("my_folder.my_model:MyModel")
