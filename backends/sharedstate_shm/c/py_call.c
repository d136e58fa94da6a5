/* py_call.c - see py_call.h. */

#include "py_call.h"

int core_closed(struct table *self)
{
    core_raise_named(self->state, "ClosedError", Py_BuildValue("{s:O}", "url", self->url));
    return 0;
}
