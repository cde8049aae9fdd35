/* A file without the line that names its licence. */
int nothing;
