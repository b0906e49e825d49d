//! Tests of every layout that can be opened, and of the errors for others.

use super::*;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A folder for one test.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    /// Writes an image that is uniformly grey of this value, in the format of its extension.
    fn image(&self, name: &str, value: u8) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        plain(value).save(&path).unwrap();
        path
    }

    fn shard(&self, name: &str, members: &[(&str, &[u8])]) -> PathBuf {
        self.write(name, tar(members))
    }
}

fn plain(value: u8) -> ::image::RgbImage {
    ::image::RgbImage::from_pixel(8, 4, [value; 3].into())
}

fn png(value: u8) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(vec![]);
    plain(value).write_to(&mut bytes, ::image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(vec![]);
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

/// Caption and grey value of every pair.
fn all(pairs: &Pairs) -> Vec<(&str, u8)> {
    (0..pairs.len()).map(|i| (pairs.caption(i), pairs.image(i).unwrap().pixels[0])).collect()
}

fn error(path: &Path) -> String {
    format!("{:#}", Pairs::open(path).unwrap_err())
}

#[test]
fn images_beside_texts() {
    let folder = Folder::new();
    for (name, value) in [("b.png", 20), ("a/z.PNG", 10), ("c.webp", 30), ("d.1.png", 40), ("d.2.png", 50)] {
        folder.image(name, value);
    }
    folder.write("b.txt", "\u{feff}a red dog\r\n\r\n  two cats  ");
    folder.write("a/z.txt", "deep");
    folder.write("c.TXT", "a café");
    folder.write("d.1.txt", "dots");
    folder.write("d.2.txt", "more dots\n");
    folder.write(".hidden.png", "");
    folder.write("notes.md", "");
    let found = find(folder.0.path()).unwrap();
    assert!(!found.alone());
    let pairs = Pairs::open(folder.0.path()).unwrap();
    let expected = [("deep", 10), ("a red dog", 20), ("two cats", 20), ("a café", 30), ("dots", 40), ("more dots", 50)];
    assert_eq!(all(&pairs), expected);
    assert_eq!((pairs.len(), pairs.is_empty(), pairs.pairs()[1].caption.as_str()), (6, false, "a red dog"));
    // JPEG is not exact
    folder.image("j.jpg", 90);
    folder.image("k.JPEG", 90);
    folder.write("j.txt", "j");
    folder.write("k.txt", "k");
    let pairs = Pairs::open(folder.0.path()).unwrap();
    assert!((6..8).all(|i| pairs.image(i).unwrap().pixels[0].abs_diff(90) < 3));
}

/// A link to a parent folder is not followed endlessly.
#[test]
#[cfg(unix)]
fn links() {
    let folder = Folder::new();
    folder.image("a/a.png", 1);
    folder.write("a/a.txt", "a");
    std::os::unix::fs::symlink(folder.0.path(), folder.path("a/back")).unwrap();
    std::os::unix::fs::symlink(folder.path("nowhere"), folder.path("dead")).unwrap();
    assert_eq!(all(&Pairs::open(folder.0.path()).unwrap()), [("a", 1)]);
}

#[test]
fn lists() {
    let folder = Folder::new();
    folder.image("images/a.png", 1);
    let b = folder.image("b.png", 2);
    let lines = format!(
        "\u{feff}{}\n\n{}\n{}\r\n",
        r#"{"image": "images/a.png", "caption": "a", "width": 8, "text": {"ignored": true}}"#,
        r#"{"file_name": "b.png", "image": null, "text": ["one", " ", "two"]}"#,
        serde_json::json!({ "image": b, "caption": "by its whole path" }),
    );
    let list = folder.write("list.jsonl", &lines);
    let expected = [("a", 1), ("one", 2), ("two", 2), ("by its whole path", 2)];
    assert_eq!(all(&Pairs::open(&list).unwrap()), expected);
    // if the list has Hugging Face's name, its folder can be opened
    folder.write("metadata.jsonl", &lines);
    folder.write("images/a.txt", "not asked");
    assert_eq!(all(&Pairs::open(folder.0.path()).unwrap()), expected);
}

/// As other tools name the keys.
#[test]
fn keys_of_others() {
    let folder = Folder::new();
    folder.image("a.png", 1);
    for line in [
        r#"{"file_name": "a.png", "additional_feature": "a dog"}"#,
        r#"{"image_path": "a.png", "prompt": "a dog", "id": 3}"#,
        r#"{"img_path": "a.png", "text": "a dog"}"#,
        r#"{"path": "a.png", "sentences": ["a dog"]}"#,
        r#"{"filename": "a.png", "label": "a dog"}"#,
        r#"{"image_file": "a.png", "caption": "a dog"}"#,
    ] {
        assert_eq!(all(&Pairs::open(&folder.write("x.jsonl", line)).unwrap()), [("a dog", 1)], "{line}");
    }
    let line = |line: &str| error(&folder.write("x.jsonl", line));
    let said = line(r#"{"image": "a.png", "label": "a dog", "id": "3"}"#);
    assert!(
        said.contains("keys id, image, label, and none of a caption") || said.contains("keys image, label, id"),
        "{said}"
    );
    let said = line(r#"{"picture": "a.png"}"#);
    assert!(
        said.contains("no image; its name belongs in `image`, relative to this list; the keys are picture"),
        "{said}"
    );
    let said = line(r#"{"image": "a.png", "id": 3}"#);
    assert!(said.contains("images without a caption: 1"), "{said}");
    let said = error(&folder.write("x.csv", "pic,words\n"));
    assert!(said.contains("it is called file_name, in the first line, which has pic, words"), "{said}");
}

#[test]
fn what_is_not_read_is_named() {
    let folder = Folder::new();
    folder.write("b.gif", b"GIF89a");
    folder.write("b.txt", "b");
    folder.write("c.BMP", b"BM");
    let said = error(folder.0.path());
    assert!(
        said.contains("images in a format that is not read (convert them to PNG, JPEG or WebP): 2, the first is"),
        "{said}"
    );
    assert!(said.contains("b.gif") && !said.contains("captions without an image"), "{said}");
    folder.image("a.png", 1);
    folder.write("a.txt", "a");
    assert_eq!(all(&Pairs::open(folder.0.path()).unwrap()), [("a", 1)]);
    for name in ["s.tar", "s.tar.gz"] {
        let said = error(&folder.write(name, b"\x1f\x8b\x08\0\0\0\0\0\0\x03"));
        assert!(said.contains(name) && said.contains("a compressed archive") && said.contains("gunzip"), "{said}");
    }
}

/// Layouts of sd-scripts: `.caption` beside an image, or metadata by the images' names without their extension.
#[test]
fn of_sd_scripts() {
    let folder = Folder::new();
    for (name, value) in [("10_dog/a.png", 1), ("10_dog/b.PNG", 2), ("c.png", 3)] {
        folder.image(name, value);
    }
    folder.write("10_dog/a.caption", "a red dog");
    folder.write("10_dog/b.CAPTION", "one\rtwo\r");
    folder.write("c.txt", "a text");
    folder.write("c.caption", "not asked");
    let all_of =
        |path: &Path| all(&Pairs::open(path).unwrap()).into_iter().map(|(c, v)| (c.to_owned(), v)).collect::<Vec<_>>();
    let expected = |pairs: &[(&str, u8)]| pairs.iter().map(|(c, v)| (c.to_string(), *v)).collect::<Vec<_>>();
    assert_eq!(all_of(folder.0.path()), expected(&[("a red dog", 1), ("one", 2), ("two", 2), ("a text", 3)]));

    let folder = Folder::new();
    folder.image("a.png", 1);
    let b = folder.image("in/b.png", 2);
    let metadata = serde_json::json!({
        "a": { "caption": "by its stem", "tags": "1boy", "train_resolution": [512, 512] },
        b.with_extension("").to_str().unwrap(): { "tags": "1girl, red hair" },
        "/moved/away/a.png": { "caption": "found by its name" },
        "gone": { "caption": "x" },
        "in/b.png": { "caption": "", "tags": "of an empty caption" },
    });
    let metadata = format!("\u{feff}{}", metadata.to_string().replace("[512,512]", "NaN"));
    let list = folder.write("meta_cap.json", metadata);
    let pairs = expected(&[
        ("by its stem, 1boy", 1),
        ("1girl, red hair", 2),
        ("found by its name", 1),
        ("of an empty caption", 2),
    ]);
    let sorted = |mut pairs: Vec<(String, u8)>| {
        pairs.sort();
        pairs
    };
    assert_eq!(sorted(all_of(&list)), sorted(pairs.clone()));
    assert_eq!(sorted(all_of(folder.0.path())), sorted(pairs));
    // of several stages the last, and nothing where that is not known
    folder.write("meta_lat.json", r#"{"a": {"caption": "the last stage"}}"#);
    assert_eq!(all_of(folder.0.path()), expected(&[("the last stage", 1)]));
    fs::rename(folder.path("meta_lat.json"), folder.path("meta_mine.json")).unwrap();
    fs::rename(&list, folder.path("meta_yours.json")).unwrap();
    assert!(error(folder.0.path()).contains("several files of metadata, meta_mine.json, meta_yours.json; name one"));
    fs::rename(folder.path("meta_yours.json"), &list).unwrap();
    fs::remove_file(folder.path("meta_mine.json")).unwrap();
    let list = folder
        .write("list.json", r#"[{"image": "a.png", "caption": "one"}, {"file_name": "in/b.png", "text": "two"}]"#);
    assert_eq!(all_of(&list), expected(&[("one", 1), ("two", 2)]));
    for (text, said) in
        [("3", "an object by images"), ("{\"a\": 3}", "a: must be an object"), ("[3]", "element 0 is no object")]
    {
        assert!(error(&folder.write("list.json", text)).contains(said), "{text}");
    }
}

/// Hugging Face's image folder with a table, whose caption column may have any name, and with a folder for each split.
#[test]
fn tables() {
    let folder = Folder::new();
    folder.image("train/a.png", 1);
    folder.image("train/b.png", 2);
    let table = "\u{feff}file_name,additional_feature\r\na.png,\"a dog, red\"\r\nb.png,\r\nb.png,two\r\n";
    let list = folder.write("train/metadata.csv", table);
    folder.write("train/a.txt", "not asked");
    let expected = [("a dog, red", 1), ("two", 2)];
    for path in [&list, folder.0.path(), &folder.path("train")] {
        assert_eq!(all(&Pairs::open(path).unwrap()), expected, "{}", path.display());
    }
    let table = "Text\tn\tImage\na dog\t3\ttrain/a.png\n";
    assert_eq!(all(&Pairs::open(&folder.write("x.TSV", table)).unwrap()), [("a dog", 1)]);
    assert!(error(&folder.write("x.csv", "a,b\n1,2\n")).contains("x.csv: no column with the images' names"));
    assert!(error(&folder.write("x.csv", "file_name,b,c\n1,2,3\n")).contains("x.csv: no column with captions"));
    assert!(error(&folder.write("x.csv", "")).contains("x.csv: no column"));
}

/// Names of caption files of other programs; a JSON file counts where there is no text, and only if it has a caption.
#[test]
fn files_beside_images() {
    let folder = Folder::new();
    for (n, name) in ["a.png", "b.png", "c.png", "d.png"].iter().enumerate() {
        folder.image(name, n as u8 + 1);
    }
    folder.write("a.cap", "a");
    folder.write("b.png.txt", "b");
    folder.write("c.json", r#"{"caption": "c", "width": 8}"#);
    folder.write("d.txt", "d");
    folder.write("d.png.txt", "not asked");
    folder.write("d.json", r#"{"caption": "not asked"}"#);
    folder.write("e.json", "[1]");
    assert_eq!(all(&Pairs::open(folder.0.path()).unwrap()), [("a", 1), ("b", 2), ("c", 3), ("d", 4)]);
}

#[test]
fn miniature_world() {
    let folder = Folder::new();
    folder.image("000000.png", 7);
    folder.image("000000.mask-0.png", 8);
    let line =
        r#"{"file": "000000.png", "scene": {}, "captions": ["a red dog", "a dog"], "masks": ["000000.mask-0.png"]}"#;
    let list = folder.write("scenes.jsonl", line);
    for path in [folder.0.path(), &list] {
        assert_eq!(all(&Pairs::open(path).unwrap()), [("a red dog", 7), ("a dog", 7)]);
    }
}

#[test]
fn shards() {
    let folder = Folder::new();
    let long = format!("{}/long.png", "directory/".repeat(20)); // does not fit into a plain header
    let first = folder.shard(
        "data/0.tar",
        &[
            ("./b.txt", b"b\nB"),
            ("./b.png", &png(2)),
            ("./b.json", b"not looked at"),
            ("./b.seg.png", b"another thing"),
            ("./a.json", br#"{"caption": "a", "similarity": 0.3}"#),
            ("./a.png", &png(1)),
            ("./._a.png", b"hidden"),
            ("./a.cls", b"3"),
        ],
    );
    assert_eq!(all(&Pairs::open(&first).unwrap()), [("a", 1), ("b", 2), ("B", 2)]);
    let text = long.replace("png", "txt");
    folder.shard(
        "data/1.tar",
        &[("a.PNG", &png(3)), ("a.json", br#"{"text": ["c", "d"]}"#), (&long, &png(4)), (&text, b"e")],
    );
    let pairs = Pairs::open(&folder.path("data")).unwrap();
    assert_eq!(all(&pairs), [("a", 1), ("b", 2), ("B", 2), ("c", 3), ("d", 3), ("e", 4)]);
}

/// Pairs are the same in a folder and in a shard, whatever the format of the archive.
#[test]
fn shards_hold_what_folders_hold() {
    let folder = Folder::new();
    let noise = ::image::RgbImage::from_fn(31, 17, |x, y| [(x * 8) as u8, (y * 15) as u8, (x * y) as u8].into());
    let mut builder = tar::Builder::new(vec![]);
    for name in ["a.jpg", "b.png", "c.webp"] {
        noise.save(folder.path(name)).unwrap();
        let text = folder.write(&format!("{name}.txt"), name);
        let text = (text, format!("{}.txt", &name[..1]));
        fs::rename(&text.0, folder.path(&text.1)).unwrap();
        builder.append_path_with_name(folder.path(name), name).unwrap();
        builder.append_path_with_name(folder.path(&text.1), &text.1).unwrap();
    }
    let elsewhere = Folder::new();
    let shard = elsewhere.write("x.tar", builder.into_inner().unwrap());
    let (loose, packed) = (Pairs::open(folder.0.path()).unwrap(), Pairs::open(&shard).unwrap());
    assert_eq!((loose.len(), packed.len()), (3, 3));
    let size = "16x24".parse().unwrap();
    for i in 0..3 {
        assert_eq!(loose.caption(i), packed.caption(i));
        assert_eq!(loose.image(i).unwrap(), packed.image(i).unwrap());
        assert_eq!(loose.tensor(i, size).unwrap(), packed.tensor(i, size).unwrap());
    }
    assert_eq!(loose.image(1).unwrap().pixels, noise.into_raw());
}

#[test]
fn what_has_no_partner_is_counted() {
    let folder = Folder::new();
    for name in ["a.png", "b.png", "c.png"] {
        folder.image(name, 1);
    }
    folder.write("a.txt", "a");
    folder.write("b.txt", "\n \n");
    folder.write("d.txt", b"\xff");
    folder.shard(
        "x.tar",
        &[("e.png", &png(2)), ("e.json", b"{}"), ("f.txt", b"f"), ("g.json", b"broken"), ("h.png", b"")],
    );
    let found = find(folder.0.path()).unwrap();
    let tally = |count, name: &str| Tally { count, first: folder.path(name).display().to_string() };
    assert_eq!(found.images_alone, tally(4, "b.png"));
    assert_eq!(found.captions_alone, tally(3, "d.txt"));
    assert_eq!(all(&Pairs::open(folder.0.path()).unwrap()), [("a", 1)]);

    let list =
        "{\"image\": \"a.png\"}\n{\"image\": \"b.png\", \"caption\": []}\n{\"image\": \"z.png\", \"caption\": \"z\"}";
    let list = folder.write("list.jsonl", list);
    let found = find(&list).unwrap().to_string();
    let [a, z] = ["a.png", "z.png"].map(|name| folder.path(name).display().to_string());
    assert_eq!(
        found,
        format!(
            "images without a caption: 2, the first is {a}; captions without an image: 1, the first is for {z}, which is not there"
        )
    );
    let error = error(&list);
    assert!(
        error.contains("list.jsonl: no image with a caption in it (images without a caption: 2, the first"),
        "{error}"
    );
}

#[test]
fn errors_name_the_place() {
    let folder = Folder::new();
    assert!(error(&folder.path("nowhere")).contains("nowhere: no such file or folder"));
    assert!(error(folder.0.path()).contains("no image with a caption in it; the caption of a.png belongs in a.txt"));
    assert!(
        error(&folder.write("a.md", ""))
            .contains("a.md: pairs are a folder, a list (.jsonl, .csv, .tsv, .json) or a .tar shard")
    );
    let line = |line: &[u8]| error(&folder.write("a.jsonl", [b"\n", line].concat()));
    assert!(line(b"{\"image\": }").contains("a.jsonl:2: expected value, column 11"));
    assert!(line(b"[]").contains("a.jsonl:2: "));
    assert!(line(b"\"\xff\"").contains("a.jsonl:2: not valid UTF-8"));
    assert!(line(br#"{"caption": "a"}"#).contains("a.jsonl:2: no image; its name belongs in `image`"));
    assert!(line(br#"{"file": 3}"#).contains("a.jsonl:2: `file` must be the name of an image"));
    assert!(line(br#"{"image": "a", "text": ["a", 1]}"#).contains("a.jsonl:2: `text` must be a string, or a list of"));

    let text = Folder::new();
    text.image("a.png", 1);
    text.write("a.txt", b"\xff");
    assert!(error(text.0.path()).contains("a.txt: line 1 is not valid UTF-8"));

    let shard = |members: &[(&str, &[u8])]| error(&folder.shard("s.tar", members));
    assert!(shard(&[("a.png", b""), ("a.json", b"{\"caption\": 3}")]).contains("s.tar: a.json: `caption` must be"));
    assert!(shard(&[("a.png", b""), ("a.json", b"{")]).contains("s.tar: a.json: "));
    assert!(shard(&[("a.png", b""), ("a.txt", b"\xff")]).contains("s.tar: a.txt: line 1 is not valid UTF-8"));
    assert!(shard(&[]).contains("s.tar: no image"));
    assert!(error(&folder.write("s.tar", [7; 1024])).contains("s.tar: not a whole tar file"));
    let whole = tar(&[("a.txt", b"a"), ("a.png", &png(1))]);
    assert!(error(&folder.write("s.tar", &whole[..512 * 3 + 20])).contains("s.tar: cut off within a.png"));
    assert!(error(&folder.write("s.tar", &whole[..512 * 2 + 20])).contains("s.tar: not a whole tar file"));
}

#[test]
fn broken_images_are_named() {
    let folder = Folder::new();
    let jpeg = fs::read(folder.image("whole.jpg", 9)).unwrap();
    let cut = |bytes: &[u8]| bytes[..bytes.len() / 2].to_owned();
    folder.write("a.png", cut(&png(1)));
    folder.write("b.jpg", cut(&jpeg));
    folder.write("c.png", b"");
    folder.write("d.png", b"GIF89a");
    folder.shard("x.tar", &[("e.png", &cut(&png(1))), ("e.txt", b"e"), ("f.png", &png(2)), ("f.txt", b"f")]);
    for name in ["a", "b", "c", "d"] {
        folder.write(&format!("{name}.txt"), name);
    }
    let pairs = Pairs::open(folder.0.path()).unwrap();
    let error = |i: usize| pairs.image(i).unwrap_err().to_string();
    for (i, name) in ["a.png: ", "b.jpg: ", "c.png: ", "d.png: ", "x.tar: e.png: "].iter().enumerate() {
        assert!(error(i).contains(&format!("{name}broken image")), "{}", error(i));
    }
    assert!(pairs.image(5).is_ok());
    // files that change after opening
    fs::remove_file(folder.path("a.png")).unwrap();
    assert!(error(0).contains("a.png: no such file or folder"));
    folder.write("x.tar", b"short");
    assert!(error(5).contains("x.tar: f.png is cut off; has the shard changed?"));
}

/// Truncated images are errors in every format. Only the decoder of JPEG would fill the rest with grey.
#[test]
fn images_that_are_cut_off() {
    let folder = Folder::new();
    let noise = ::image::RgbImage::from_fn(200, 100, |x, y| [(x * y % 251) as u8, (x * 31 % 256) as u8, 0].into());
    for name in ["a.jpg", "b.png", "c.webp"] {
        noise.save(folder.path(name)).unwrap();
        folder.write(&name.replace(&name[1..], ".txt"), name);
    }
    let pairs = Pairs::open(folder.0.path()).unwrap();
    for i in 0..3 {
        let name = pairs.caption(i);
        assert!(pairs.image(i).is_ok());
        let bytes = fs::read(folder.path(name)).unwrap();
        for part in [bytes.len() / 2, bytes.len() * 9 / 10] {
            folder.write(name, &bytes[..part]);
            let error = pairs.image(i).map(|p| p.pixels.len()).unwrap_err().to_string();
            assert!(error.contains(&format!("{name}: broken image")), "{error}");
        }
        folder.write(name, [&bytes, b"something behind it".as_slice()].concat());
        assert!(pairs.image(i).is_ok(), "{name}");
    }
    // a JPEG that lacks only its last marker; a thumbnail before the scan has such a marker
    let mut jpeg = vec![];
    let mut encoder = ::image::codecs::jpeg::JpegEncoder::new(&mut jpeg);
    ::image::ImageEncoder::set_exif_metadata(&mut encoder, b"\xff\xd8\xff\xd9".to_vec()).unwrap();
    encoder.encode_image(&noise).unwrap();
    folder.write("a.jpg", &jpeg);
    assert!(pairs.image(0).is_ok());
    folder.write("a.jpg", &jpeg[..jpeg.len() - 2]);
    assert!(pairs.image(0).unwrap_err().to_string().contains("a.jpg: broken image: the JPEG is cut off"));
}
