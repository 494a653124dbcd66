from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from generality.benchmarks import load_images, read_images
from generality.errors import UserError


def draw(root: Path, *names: str) -> None:
    """A small grey image in each file, of its own shade."""
    for shade, name in enumerate(names):
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 6), shade).save(file)


def named(data: Dataset, root: Path) -> dict[str, tuple[str, str]]:
    """Each image's class and domain, by its place below `root`."""
    names = data.features["label"].names
    rows = zip(data["path"], data["label"], data["domain"], strict=True)
    return {Path(p).relative_to(root).as_posix(): (names[y], d) for p, y, d in rows}


@pytest.mark.parametrize(
    ("kind", "mode", "scale"),
    [(np.uint16, "I;16", 257), (np.int32, "I", 257), (np.int32, "I", 1), (np.float32, "F", 1),
     (np.float32, "F", 1 / 255), (np.float32, "F", 257)],
)  # fmt: skip
def test_deep_greys_are_no_white(tmp_path: Path, kind: type, mode: str, scale: float) -> None:
    shades = np.linspace(0, 255, 64).round().reshape(8, 8)
    saved = Image.fromarray((shades * scale).astype(kind))
    assert saved.mode == mode
    saved.save(tmp_path / "deep.tif")
    (pixels,) = load_images([tmp_path / "deep.tif"], size=8)
    np.testing.assert_allclose(pixels, np.stack([shades / 255] * 3), atol=1e-6)
    (as_bytes,) = load_images([tmp_path / "deep.tif"], size=8, as_bytes=True)
    assert as_bytes.tolist() == [shades.tolist()] * 3


def test_sixteen_bits_keep_more_than_eight(tmp_path: Path) -> None:
    dim = np.arange(64, dtype=np.uint16).reshape(8, 8)  # all one shade in eight bits
    Image.fromarray(dim).save(tmp_path / "dim.png")
    assert len(np.unique(load_images([tmp_path / "dim.png"], size=8))) == 64
    Image.fromarray(np.full((8, 8), -1, np.int32)).save(tmp_path / "odd.tif")
    with pytest.raises(UserError, match="odd.tif cannot be read: its pixels run from -1 to -1"):
        load_images([tmp_path / "odd.tif"], size=8)


def counts(data: Dataset) -> dict[str, int]:
    return dict(Counter(data["domain"]))


# People's own


def test_a_folder_per_domain_and_class(tmp_path: Path) -> None:
    draw(tmp_path, "south/ill/1.JPG", "north/ill/a.png", "north/well/b.png", "south/well/2.jpeg")
    draw(tmp_path, "north/ill/._a.png", ".cache/x/y.png")
    (tmp_path / "north" / "readme.txt").touch()
    data = read_images(tmp_path)
    assert named(data, tmp_path) == {
        "north/ill/a.png": ("ill", "north"),
        "north/well/b.png": ("well", "north"),
        "south/ill/1.JPG": ("ill", "south"),
        "south/well/2.jpeg": ("well", "south"),
    }
    assert data.column_names == ["path", "label", "domain"]


def test_a_folder_per_class_is_one_domain_and_numbers_sort_by_size(tmp_path: Path) -> None:
    draw(tmp_path / "clinic", "10/a.png", "9/b.png", "2/c.png")
    data = read_images(tmp_path / "clinic")
    assert data.features["label"].names == ["2", "9", "10"]
    assert set(data["domain"]) == {"clinic"}


@pytest.mark.parametrize(
    "names", [("a.png",), ("c/a.png", "d/c/a.png"), ("a/b/c/d.png", "a/b/c/e.png")]
)
def test_folders_of_another_depth_are_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    draw(tmp_path, *names)
    with pytest.raises(UserError, match=f"neither all as class/image.*{names[0]}"):
        read_images(tmp_path)


def test_a_table_of_paths(tmp_path: Path) -> None:
    draw(tmp_path / "pictures", "1.png", "2.png")
    away = tmp_path / "away.png"
    draw(tmp_path, "away.png")
    table = tmp_path / "cases.csv"
    table.write_text(f"file,finding,ward\npictures/1.png,7,A\npictures/2.png,7,B\n{away},12,A\n")
    data = read_images(table, image="file", label="finding", domain="ward")
    assert named(data, tmp_path) == {
        "pictures/1.png": ("7", "A"),
        "pictures/2.png": ("7", "B"),
        "away.png": ("12", "A"),
    }
    assert set(read_images(table, image="file", label="finding", domain=None)["domain"]) == {"all"}
    with pytest.raises(UserError, match="Did you mean 'ward'"):
        read_images(table, image="file", label="finding", domain="wards")
    table.write_text("path,label,domain\npictures/1.png,1,a\n,1,b\n")
    with pytest.raises(UserError, match="row 2: an image needs a path"):
        read_images(table)


# What cannot be read


def test_unreadable_images_are_named_and_refused_or_left_out(tmp_path: Path) -> None:
    draw(tmp_path, *(f"north/ill/{i}.png" for i in range(8)), "south/well/x.png")
    (tmp_path / "north/ill/0.png").write_bytes(b"no image")
    (tmp_path / "north/ill/1.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"2 of 9 images cannot be read: .*0\.png, .*1\.png"):
        read_images(tmp_path)
    with pytest.warns(UserWarning, match="2 of 9 images cannot be read.*left out"):
        data = read_images(tmp_path, on_unreadable="skip")
    assert counts(data) == {"north": 6, "south": 1}
    assert counts(read_images(tmp_path, check="none")) == {"north": 8, "south": 1}


def test_an_image_cut_short_is_found_by_decoding(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    (tmp_path / "a").mkdir()
    for name in ("whole.jpg", "cut.jpg"):
        Image.fromarray(pixels).save(tmp_path / "a" / name)
    cut = tmp_path / "a" / "cut.jpg"
    cut.write_bytes(cut.read_bytes()[:-1500])
    assert len(read_images(tmp_path)) == 2
    with pytest.raises(UserError, match="1 of 2 images cannot be read.*cut.jpg"):
        read_images(tmp_path, check="decode")
    with pytest.raises(UserError, match="cut.jpg cannot be read"):
        load_images([cut], size=8)


def test_all_unreadable_or_nothing_at_all_is_refused_also_when_skipping(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There are no images"):
        read_images(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.png").touch()
    with pytest.raises(UserError, match="1 of 1"):
        read_images(tmp_path, on_unreadable="skip")
    with pytest.raises(UserError, match="There is no folder"):
        read_images(tmp_path / "none", layout="PACS")
    with pytest.raises(UserError, match="Did you mean 'DomainNet'"):
        read_images(tmp_path, layout="DomainBet")
    with pytest.raises(ValueError, match="on_unreadable"):
        read_images(tmp_path, on_unreadable="ignore")  # type: ignore[arg-type]


# Pixels


def test_images_are_decoded_when_asked_for(tmp_path: Path) -> None:
    draw(tmp_path, "a/x/1.png", "a/y/2.png")
    data = read_images(tmp_path, size=4)
    row = data[1]
    assert (row["image"].size, row["image"].mode, row["label"]) == ((4, 4), "RGB", 1)
    assert [image.getpixel((0, 0)) for image in data["image"]] == [(0, 0, 0), (1, 1, 1)]
    (tmp_path / "a/x/1.png").unlink()
    assert data[1]["domain"] == "a"
    pixels = load_images([tmp_path / "a/y/2.png"], size=4)
    assert pixels.dtype == np.float32
    assert np.array_equal(pixels, np.full((1, 3, 4, 4), 1 / 255, dtype=np.float32))


# Public sets


def test_pacs_in_its_archives_folder_and_its_lists(tmp_path: Path) -> None:
    home = tmp_path / "kfold"
    for domain in ("art_painting", "cartoon", "photo", "sketch"):
        draw(home, f"{domain}/dog/1.jpg", f"{domain}/guitar/2.png")
        (home / f"{domain}_train_kfold.txt").write_text(f"{domain}/dog/1.jpg 1\n")
    data = read_images(tmp_path, layout="PACS")
    assert counts(data) == dict.fromkeys(("art_painting", "cartoon", "photo", "sketch"), 2)
    train = read_images(home, layout="pacs", split="train")
    assert set(train["path"]) == {str(home / d / "dog/1.jpg") for d in counts(data)}
    assert set(train["split"]) == {"train"}
    with pytest.raises(UserError, match="test_kfold.txt, which lists the split 'test'"):
        read_images(home, layout="PACS", split="test")
    for file in (home / "photo").rglob("*.*"):
        file.unlink()
    (home / "photo").rename(home / "fotos")
    with pytest.raises(UserError, match="lacks the folders of PACS: photo"):
        read_images(tmp_path, layout="PACS")


def test_vlcs_as_first_published_reads_nothing_twice(tmp_path: Path) -> None:
    for domain in ("CALTECH", "LABELME", "PASCAL", "SUN"):
        for split, number in (("train", 0), ("crossval", 3), ("test", 4)):
            draw(tmp_path, f"{domain}/{split}/{number}/{split}.jpg")
            draw(tmp_path, f"{domain}/full/{number}/{split}.jpg")
    data = read_images(tmp_path, layout="VLCS")
    assert counts(data) == dict.fromkeys(("Caltech101", "LabelMe", "SUN09", "VOC2007"), 3)
    assert data.features["label"].names == ["bird", "dog", "person"]
    test = read_images(tmp_path, layout="VLCS", split="test")
    assert set(named(test, tmp_path).values()) == {("person", d) for d in counts(data)}
    with pytest.raises(UserError, match="no split 'val'.*crossval, full, test, train"):
        read_images(tmp_path, layout="VLCS", split="val")


def test_the_other_sets_as_domainbed_downloads_them(tmp_path: Path) -> None:
    folders = {
        "VLCS": ("VLCS", ["Caltech101", "LabelMe", "SUN09", "VOC2007"]),
        "OfficeHome": ("office_home", ["Art", "Clipart", "Product", "Real World"]),
        "TerraIncognita": (
            "terra_incognita",
            ["location_100", "location_38", "location_43", "location_46"],
        ),
    }
    for layout, (folder, domains) in folders.items():
        for domain in domains:
            draw(tmp_path / folder, f"{domain}/cat/{domain}.jpg")
        for root in (tmp_path, tmp_path / folder):
            assert counts(read_images(root, layout=layout)) == dict.fromkeys(domains, 1)
    (tmp_path / "office_home" / "Real World").rename(tmp_path / "office_home" / "RealWorld")
    assert "Real World" in counts(read_images(tmp_path, layout="OfficeHome"))


def test_domainnet_with_its_lists_and_its_duplicates(tmp_path: Path) -> None:
    for domain in ("clipart", "infograph", "painting", "quickdraw", "real", "sketch"):
        draw(tmp_path, f"{domain}/ant/1.png", f"{domain}/bee/2.png", f"{domain}/bee/3.png")
        (tmp_path / f"{domain}_train.txt").write_text(
            f"{domain}/ant/1.png 6\n{domain}/bee/3.png 26\n"
        )
    (tmp_path / "domain_net_duplicates.txt").write_text("sketch/bee/3.png\nreal/bee/9.png\n")
    data = read_images(tmp_path, layout="DomainNet")
    assert (len(data), counts(data)["sketch"]) == (17, 2)
    train = read_images(tmp_path, layout="DomainNet", split="train")
    assert (len(train), counts(train)["sketch"]) == (11, 1)
    assert named(train, tmp_path)["real/bee/3.png"] == ("bee", "real")


def test_camelyon17(tmp_path: Path) -> None:
    home = tmp_path / "camelyon17_v1.0"
    home.mkdir()
    lines = [",patient,node,x_coord,y_coord,tumor,slide,center,split"]
    for i, (center, split) in enumerate([(0, 0), (0, 1), (1, 0), (2, 0), (4, 0)]):
        lines.append(f"{i},00{i},2,{i}0,7,{i % 2},{20 + i},{center},{split}")
        draw(home, f"patches/patient_00{i}_node_2/patch_patient_00{i}_node_2_x_{i}0_y_7.png")
    (home / "metadata.csv").write_text("\n".join(lines))
    data = read_images(tmp_path, layout="camelyon17")
    assert list(data["split"]) == ["train", "id_val", "val", "test", "train"]
    assert counts(data) == {"hospital_0": 2, "hospital_1": 1, "hospital_2": 1, "hospital_4": 1}
    assert [data.features["label"].names[y] for y in data["label"]] == [
        "normal", "tumor", "normal", "tumor", "normal",
    ]  # fmt: skip
    assert list(read_images(home, layout="camelyon17", split="val")["group"]) == ["22"]
    with pytest.raises(UserError, match="split of these images 'valid'"):
        read_images(home, layout="camelyon17", split="valid")


def test_fmow_keeps_the_numbers_of_the_full_table(tmp_path: Path) -> None:
    rows = [
        ("train", "dam", "FRA", "2012-05-01T08:00:00Z", "train"),
        ("seq", "dam", "FRA", "2012-05-01T08:00:00Z", None),
        ("val", "zoo", "FRA", "2014-05-01T08:00:00Z", "val"),
        ("test", "zoo", "KEN", "2016-01-01T00:00:00Z", "test"),
        ("test", "dam", "XXX", "2010-05-01T08:00:00Z", "id_test"),
        ("train", "dam", "KEN", "2017-05-01T08:00:00Z", None),
    ]
    (tmp_path / "rgb_metadata.csv").write_text(
        "split,img_filename,category,country_code,timestamp\n"
        + "".join(f"{s},x,{c},{k},{t}\n" for s, c, k, t, _ in rows)
    )
    (tmp_path / "country_code_mapping.csv").write_text(
        "name,alpha-3,region\nFrance,FRA,Europe\nKenya,KEN,Africa\n"
    )
    draw(tmp_path, *(f"images/rgb_img_{i}.png" for i in (0, 2, 3, 4, 5)))
    data = read_images(tmp_path, layout="fmow")
    found = {
        Path(p).stem: (s, d, g)
        for p, s, d, g in zip(
            data["path"], data["split"], data["domain"], data["group"], strict=True
        )
    }
    assert found == {
        "rgb_img_0": ("train", "Europe", "2012"),
        "rgb_img_2": ("val", "Europe", "2014"),
        "rgb_img_3": ("test", "Africa", "2016"),
        "rgb_img_4": ("id_test", "Other", "2010"),
        "rgb_img_5": (None, "Africa", "2017"),
    }


def test_iwildcam_names_its_classes(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text(
        "split,location_remapped,sequence_remapped,y,filename\n"
        "train,3,11,0,a.jpg\nid_test,3,12,24,b.jpg\ntest,7,13,24,c.jpg\n"
    )
    draw(tmp_path, "train/a.jpg", "train/b.jpg", "train/c.jpg")
    assert read_images(tmp_path, layout="iwildcam").features["label"].names == ["0", "24"]
    (tmp_path / "categories.csv").write_text("name,category_id,y\nempty,0,0\nocelot,99,24\n")
    data = read_images(tmp_path, layout="iwildcam")
    assert named(data, tmp_path / "train") == {
        "a.jpg": ("empty", "location_3"),
        "b.jpg": ("ocelot", "location_3"),
        "c.jpg": ("ocelot", "location_7"),
    }
    (tmp_path / "metadata.csv").write_text("split,y,filename\ntrain,0,a.jpg\n")
    with pytest.raises(UserError, match="lacks the column location_remapped, sequence_remapped"):
        read_images(tmp_path, layout="iwildcam")
    with pytest.raises(UserError, match="There is no rgb_metadata.csv"):
        read_images(tmp_path, layout="fmow")
