import fnmatch
import sys
import zipfile

wheel, tree, *patterns = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive:
    for pattern in patterns:
        members = fnmatch.filter(archive.namelist(), pattern)
        if not members:
            sys.exit(f"nothing in it matches {pattern}")
        archive.extractall(tree, members)
