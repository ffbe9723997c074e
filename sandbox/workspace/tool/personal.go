package tool

// Named is what a person's own settings name by a relative path, which they do in each folder.
type Named struct {
	Path string
	// Folder is true if a folder counts, too, with all that is in it.
	Folder bool
	// Word is true if it may also be no path at all.
	Word bool
}

// ByPerson says who acts on what a [Named] is.
const ByPerson = "somebody's own settings have a program of theirs run it, or take commands from it"
