#ifndef RH_CALIBRATE_TOKENIZE_COMMAND_H
#define RH_CALIBRATE_TOKENIZE_COMMAND_H

/* "tokenize TOKENIZER_JSON [--json] [--jsonl] [--pattern REGEX] < TEXT": ids of standard input,
 * with
 * --jsonl those of every line of it. -1 when argv[1] is another word, else the exit code. */
int rh_tokenize_command(int argc, char **argv);

#endif
