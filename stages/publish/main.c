#include "publish/publish.h"

int main(int argc, char **argv)
{
    return rh_stage_main(&rh_publish_stage, argc, argv);
}
