"""Where desired state comes from: a git repository here or elsewhere, a plain directory, the inbox.

Here belongs whatever reads revisions or dropped files. Not here: what the files mean (`kinds/`),
and what has been recorded about them (`store/`).

git.py          running git so that a repository cannot make it run anything
layout.py       where a repository keeps things; branch and HEAD read without a process
objects.py      objects by id: from their own files, else from git
tree.py         what is in a tree, and which paths are fit to be used
repository.py   `LocalRepository`: follows a branch
snapshot.py     `GitSnapshot`: the immutable tree of one commit
uncommitted.py  what differs from the last commit, without an index and without filters
history.py      a `.git` limited to what one commit reaches
checkout.py     read-only directories, built aside and renamed into place
directory.py    `DirectorySource`: a plain directory, for trying things out
inbox.py        dropped task manifests: scan, claim, result
dropped.py      reading one dropped file safely
transfer.py     git speaking to another repository: transports, credentials, limits
mirror.py       a bare repository of ours that holds what was fetched
remote.py       `RemoteRepository`: a thread that fetches, and a mirror that is read
subdirectory.py `Subdirectory`: a fleet that is one directory of a repository
signature.py    who signed a commit, by ssh-keygen and gpg
signed.py       which commits must be signed
unavailable.py  the two ways in which a source can be unavailable
"""
