"""What an instructor does with the course's notebooks: run them, hand them out, grade them, show them.

`execute` runs notebooks and stores what they give; `assignments` turns them into student versions; `grading` grades a
folder of submissions; `slides` makes slides; `badges` writes the address of one's own copy into them. All of it is
``python -m rlkit.classroom``, and a target of the Makefile.
"""
