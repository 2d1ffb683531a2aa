#ifndef RH_PUBLISH_FRONT_MATTER_H
#define RH_PUBLISH_FRONT_MATTER_H

#include "base/strbuf.h"

/*
 * The YAML head of a model card, as far as a derived card keeps it: the entries license,
 * license_name, license_link, language and pipeline_tag are copied as they stand, tags are
 * collected. card: NUL-terminated text of a README.md, NULL allowed.
 */
void front_matter_keep(const char *card, struct rh_strbuf *kept, struct rh_strbuf *tags);

#endif
