#!/bin/sh
# Makes the databases beside it, and "packages", which is what rpm says is in them. It needs rpm and rpmbuild (4.18), db5.3_load and python3,
# as Debian's packages rpm, db5.3-util and python3 have them. That rpm writes databases of SQLite alone: its headers are put into the others.
set -eu
cd "$(dirname "$0")"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

pack() { # NAME VERSION RELEASE EPOCH ARCH FILES
	cat >"$tmp/$1.spec" <<EOF
Name: $1
Version: $2
Release: $3
${4:+Epoch: $4}
Summary: $1
License: MIT
%description
$1
%install
mkdir -p %{buildroot}/opt/$1-$2
for i in \$(seq $6); do echo \$i >%{buildroot}/opt/$1-$2/a-file-with-a-rather-long-name-\$i; done
%files
/opt/$1-$2
EOF
	rpmbuild --quiet -bb --target "$5" --define "_topdir $tmp/build" --define "_build_id_links none" --define "debug_package %{nil}" "$tmp/$1.spec"
}
pack one 1.0 1 "" noarch 1
pack two 3.4 5 2 noarch 20
pack many 0.1~rc1 1 "" noarch 300
pack kernel 6.1 1 "" noarch 3
pack kernel 6.2 1 "" noarch 3

rpm --dbpath "$tmp/sqlite" --define "_db_backend sqlite" --initdb
rpm --dbpath "$tmp/sqlite" --define "_db_backend sqlite" -i --justdb --nodeps --nosignature --force-debian "$tmp"/build/RPMS/*/*.rpm
rpm --dbpath "$tmp/sqlite" --define "_db_backend sqlite" -qa --qf '%{NAME} %|EPOCH?{%{EPOCH}:}|%{VERSION}-%{RELEASE} %{LONGSIZE} %{ARCH}\n' | LC_ALL=C sort >packages

python3 - "$tmp" <<'EOF'
import shutil, sqlite3, struct, subprocess, sys, zlib
tmp = sys.argv[1]
main = tmp + "/sqlite/rpmdb.sqlite"
db = sqlite3.connect(main)
db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
db.execute("PRAGMA journal_mode=DELETE")
# The tables of rpm's indexes are none of what is read, and most of the file.
for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type='table' AND name NOT IN ('Packages', 'sqlite_sequence')").fetchall():
    db.execute('DELETE FROM "%s"' % name)
db.commit()
rows = db.execute("SELECT hnum, blob FROM Packages").fetchall()
db.execute("VACUUM")
db.close()
shutil.copy(main, tmp + "/sqlite.db")

# A log that has two packages which the database has not.
db = sqlite3.connect(main, isolation_level=None)
db.execute("PRAGMA journal_mode=WAL")
db.execute("PRAGMA wal_autocheckpoint=0")
for hnum, _ in rows[:2]:
    db.execute("DELETE FROM Packages WHERE hnum=?", (hnum,))
db.execute("PRAGMA wal_checkpoint(FULL)")
for row in rows[:2]:
    db.execute("INSERT INTO Packages VALUES (?, ?)", row)
shutil.copy(main, tmp + "/sqlite-wal-main.db")
shutil.copy(main + "-wal", tmp + "/sqlite-wal.db")
db.close()

# A small one, whose rows go on in pages of their own, for fuzzing to begin with.
db = sqlite3.connect(tmp + "/sqlite-small.db")
db.execute("PRAGMA page_size=512")
db.execute("CREATE TABLE Packages (hnum INTEGER PRIMARY KEY AUTOINCREMENT, blob BLOB NOT NULL)")
for i in range(12):
    name, version = b"small" + b"l" * (100 * i) + b"\0", b"%d\0" % i
    db.execute("INSERT INTO Packages (blob) VALUES (?)", (struct.pack(">10I", 2, len(name + version), 1000, 6, 0, 1, 1001, 6, len(name), 1) + name + version,))
db.commit()
db.close()

# rpm's lib/backend/ndb/rpmpkg.c: a page of slots, then the packages in blocks of 16 bytes, each with a head and a tail.
slots, blobs = b"", b""
for number, blob in rows:
    head = struct.pack("<4sIII", b"BlbS", number, 7, len(blob))
    pad = b"\0" * (-(len(head) + len(blob) + 12) % 16)
    sum = zlib.adler32(head + blob + pad)
    entry = head + blob + pad + struct.pack("<II4s", sum, len(blob), b"BlbE")
    slots += struct.pack("<4sIII", b"Slot", number, (4096 + len(blobs)) // 16, len(entry) // 16)
    blobs += entry
while len(slots) < 4096 - 32:
    slots += struct.pack("<4sIII", b"Slot", 0, 0, 0)
with open(tmp + "/ndb.db", "wb") as f:
    f.write(struct.pack("<4sIIIIIII", b"RpmP", 0, 7, 1, len(rows) + 1, 0, 0, 0) + slots + blobs)

for name, order, byteorder in (("bdb", 1234, "little"), ("bdb-big-endian", 4321, "big")):
    lines = ["VERSION=3", "format=bytevalue", "type=hash", "db_pagesize=4096", "db_lorder=%d" % order, "HEADER=END", " 00000000", " " + len(rows).to_bytes(4, byteorder).hex()]
    for hnum, blob in rows:
        lines += [" " + hnum.to_bytes(4, byteorder).hex(), " " + blob.hex()]
    subprocess.run(["db5.3_load", "-f", "/dev/stdin", tmp + "/" + name + ".db"], input="\n".join(lines + ["DATA=END", ""]).encode(), check=True)
EOF
for name in sqlite sqlite-small sqlite-wal-main sqlite-wal ndb bdb bdb-big-endian; do
	gzip -9nc "$tmp/$name.db" >"$name.gz"
done
